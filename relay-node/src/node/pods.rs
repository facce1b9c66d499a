//! Where a launcher's pod has its `/var/run`, as this process can reach it.
//!
//! Either the operator says it, by a template, or it is looked for as a KubeVirt node has it: a process
//! whose cgroup names the pod and which is the launcher, and then `/proc/PID/root/var/run`.

use std::fs;
use std::path::{Path, PathBuf};

use relay_migration::BaseDir;
use relay_migration::reconcile::Pod;

/// The name that the launcher's process has (proc(5), comm: 15 bytes).
const LAUNCHER: &str = "virt-launcher";

/// How pods are found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Pods {
    /// By their processes, below this directory, which is `/proc`.
    Processes(PathBuf),
    /// By this path, with the names in braces replaced.
    Template(Template),
}

/// A path with `{namespace}`, `{name}`, `{uid}` (the instance's) and `{pod}` (the pod's UID) in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Template(String);

impl Template {
    /// Reads one.
    ///
    /// # Errors
    /// If what it stands for would be no directory: one line.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let template = Self(text.to_owned());
        let Some(filled) = template.fill("n", "n", "u", Some("p")) else {
            return Err(format!(
                "'{text}' has braces that stand for nothing; there are {{namespace}}, {{name}}, {{uid}} and {{pod}}"
            ));
        };
        filled.parse::<BaseDir>().map_err(|error| error.to_string())?;
        Ok(template)
    }

    /// The directory that it is all in, whatever the names.
    pub(crate) fn fixed(&self) -> &Path {
        let before = self.0.split('{').next().unwrap_or_default();
        Path::new(
            before
                .rsplit_once('/')
                .map_or("/", |(directory, _)| if directory.is_empty() { "/" } else { directory }),
        )
    }

    /// `None` if it needs the pod's UID and that is not known, or has another name in braces.
    fn fill(&self, namespace: &str, name: &str, uid: &str, pod: Option<&str>) -> Option<String> {
        let known = [("{namespace}", namespace), ("{name}", name), ("{uid}", uid)];
        let mut filled = known.iter().fold(self.0.clone(), |path, (hole, with)| path.replace(hole, with));
        if let Some(pod) = pod {
            filled = filled.replace("{pod}", pod);
        }
        (!filled.contains(['{', '}'])).then_some(filled)
    }
}

impl Pods {
    /// Its `/var/run`; `None` if it is not there (yet).
    pub(super) fn find(&self, pod: &Pod<'_>) -> Option<BaseDir> {
        match self {
            Self::Template(template) => {
                // what a name is made of can't leave its directory: Kubernetes', and still checked
                let plain = |text: &str| !text.contains(['/', '{', '}']) && !matches!(text, "" | "." | "..");
                let texts = [&*pod.vmi.namespace, &*pod.vmi.name, pod.vmi_uid];
                if !texts.into_iter().chain(pod.uid).all(plain) {
                    return None;
                }
                let path = template.fill(&pod.vmi.namespace, &pod.vmi.name, pod.vmi_uid, pod.uid)?;
                path.parse().ok().filter(|dir: &BaseDir| dir.as_path().is_dir())
            }
            Self::Processes(proc) => {
                let pid = launcher(proc, pod.uid?)?;
                proc.join(pid).join("root/var/run").to_str()?.parse().ok()
            }
        }
    }
}

/// The first process of the pod that is the launcher, or its monitor.
fn launcher(proc: &Path, pod: &str) -> Option<String> {
    if pod.len() < 8 {
        return None; // any cgroup would have that in its name
    }
    // cgroupfs and systemd write it in their own ways
    let names = [format!("pod{pod}"), format!("pod{}", pod.replace('-', "_"))];
    let mut found: Vec<u32> = fs::read_dir(proc)
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let comm = fs::read_to_string(entry.path().join("comm")).ok()?;
            if !comm.starts_with(LAUNCHER) {
                return None;
            }
            let cgroup = fs::read_to_string(entry.path().join("cgroup")).ok()?;
            let is_of = |part: &str| names.iter().any(|name| part == name || is_slice_of(part, name));
            cgroup.split(['/', '\n', ':']).any(is_of).then_some(pid)
        })
        .collect();
    found.sort_unstable();
    found.first().map(ToString::to_string)
}

/// `kubepods-burstable-pod0123_4567.slice`
fn is_slice_of(part: &str, name: &str) -> bool {
    part.strip_suffix(".slice").is_some_and(|part| part.strip_suffix(name).is_some_and(|p| p.ends_with('-')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scratch;
    use relay_migration::vmi::VmiName;

    const UID: &str = "0a1b2c3d-0000-4000-8000-000000000001";

    fn find(pods: &Pods, uid: Option<&str>) -> Option<String> {
        let vmi = VmiName { namespace: "default".into(), name: "vm".into() };
        pods.find(&Pod { vmi: &vmi, vmi_uid: "u", uid }).map(|dir| dir.to_string())
    }

    #[test]
    fn by_its_launchers_process_whoever_manages_its_cgroup() {
        let dir = Scratch::new();
        let process = |pid: &str, comm: &str, cgroup: &str| {
            fs::create_dir_all(dir.path(pid)).expect("mkdir");
            fs::write(dir.path(pid).join("comm"), format!("{comm}\n")).expect("write");
            fs::write(dir.path(pid).join("cgroup"), cgroup).expect("write");
        };
        let pods = Pods::Processes(dir.root().to_owned());
        let systemd = UID.replace('-', "_");
        process("99", "pause", &format!("0::/kubepods/burstable/pod{UID}/c0\n"));
        process("7", "virt-launcher", "0::/kubepods/burstable/podffffffff-0000-4000-8000-000000000001/c\n");
        process("8", "virt-launcher", &format!("0::/kubepods/burstable/pod{UID}0/c\n"));
        assert_eq!(find(&pods, Some(UID)), None);
        process("120", "virt-launcher-m", &format!("0::/kubepods/burstable/pod{UID}/c1\n"));
        process("1300", "virt-launcher", &format!("0::/kubepods/burstable/pod{UID}/c1\n"));
        let found = |pid: &str| Some(format!("{}/{pid}/root/var/run", dir.root().display()));
        assert_eq!(find(&pods, Some(UID)), found("120"));
        process(
            "50",
            "virt-launcher",
            &format!(
                "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{systemd}.slice/cri-1.scope\n"
            ),
        );
        assert_eq!(find(&pods, Some(UID)), found("50"));
        assert_eq!((find(&pods, None), find(&pods, Some(""))), (None, None));
    }

    #[test]
    fn by_a_template_that_leads_to_a_directory_and_nowhere_else() {
        let dir = Scratch::new();
        fs::create_dir_all(dir.path("default/vm/run")).expect("mkdir");
        let template: Template =
            Template::parse(&format!("{}/{{namespace}}/{{name}}/run", dir.root().display()))
                .expect("template");
        let pods = Pods::Template(template);
        assert_eq!(find(&pods, None), Some(dir.path("default/vm/run").display().to_string()));
        let climbing = VmiName { namespace: "..".into(), name: "vm".into() };
        assert_eq!(pods.find(&Pod { vmi: &climbing, vmi_uid: "u", uid: None }), None);
        fs::remove_dir(dir.path("default/vm/run")).expect("rmdir");
        assert_eq!(find(&pods, None), None, "not there yet");
        for wrong in ["relative/{name}", "/x/{nome}", "/x/{", ""] {
            assert!(!Template::parse(wrong).expect_err(wrong).contains('\n'));
        }
    }
}
