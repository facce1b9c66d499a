//! What is left of files and ports, told to the kernel (landlock(7)).
//!
//! Only rights and scopes that were there when this was written are ever given up ([`ABI`]): one that a newer kernel
//! has would otherwise take away what nobody has thought about here. An older kernel gives up what it knows of them.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, NetPort,
    PathBeneath, RestrictionStatus, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope,
};
use rustix::fs::{Mode, OFlags, open};

use super::needs::{Needs, Sockets};
use super::reach;

/// The newest set of rights that was thought through. The next but one, 9, governs connecting to unix sockets.
const KNOWN: ABI = ABI::V7;

/// Making sockets and the directories that they are in, moving stale ones aside, removing.
const MAKING_SOCKETS: [AccessFs; 4] =
    [AccessFs::MakeSock, AccessFs::MakeDir, AccessFs::RemoveFile, AccessFs::ReadDir];

/// What libraries read to look a name up (nsswitch.conf(5), getaddrinfo(3)).
const NAME_FILES: [&str; 7] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/ld.so.cache",
];

/// Where the libraries are that do it (ld.so(8)).
const LIBRARIES: [&str; 5] = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"];

/// What the kernel was told.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Rules {
    /// Files, or directories with all that is beneath, and what may be done there.
    pub(super) paths: Vec<(PathBuf, BitFlags<AccessFs>)>,
    /// Directories with much else in them, where reading is allowed for a file's sake.
    pub(super) wide: BTreeSet<PathBuf>,
}

impl Rules {
    /// What these needs come to on this machine.
    pub(super) fn of(needs: &Needs) -> Self {
        let mut rules = Self::default();
        for file in &needs.files {
            let reach = reach::follow(file);
            let home = reach.end.parent().unwrap_or_else(|| Path::new("/"));
            if reach::is_wide(home) {
                rules.wide.insert(home.to_owned());
            }
            rules.read(home);
            // A link in the root or /var is the system's, and not for certificates to be swapped by.
            reach
                .links
                .iter()
                .filter(|directory| !reach::is_wide(directory))
                .for_each(|directory| rules.read(directory));
        }
        if needs.names {
            for file in NAME_FILES {
                let end = reach::follow(Path::new(file)).end;
                match end.parent() {
                    // Others than /etc are the directories of whoever keeps the file, and replaces it.
                    Some(home) if !reach::is_wide(home) => rules.read(home),
                    _ => rules.read(&end),
                }
            }
            LIBRARIES.iter().for_each(|directory| rules.read(Path::new(directory)));
        }
        if let Some(state) = &needs.state {
            let rights = AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::WriteFile;
            let rights = rights | AccessFs::MakeReg | AccessFs::RemoveFile | AccessFs::Truncate;
            rules.paths.push((state.clone(), rights));
        }
        if let Sockets::In(directories) = &needs.sockets {
            let rights = MAKING_SOCKETS.into_iter().fold(BitFlags::EMPTY, |all, right| all | right);
            rules.paths.extend(directories.iter().map(|directory| (directory.clone(), rights)));
        }
        rules
    }

    fn read(&mut self, path: &Path) {
        let rule = (path.to_owned(), AccessFs::ReadFile.into());
        if !self.paths.contains(&rule) {
            self.paths.push(rule);
        }
    }
}

/// Gives up all else, in this thread and those that it starts.
///
/// # Errors
/// Why the kernel did not take it.
pub(super) fn restrict(needs: &Needs, rules: &Rules) -> Result<RestrictionStatus, RulesetError> {
    let mut handled = AccessFs::from_all(KNOWN);
    if needs.sockets == Sockets::Anywhere {
        MAKING_SOCKETS.into_iter().for_each(|right| handled.remove(right));
    }
    let mut scopes = Scope::from_all(KNOWN);
    if needs.abstract_sockets {
        scopes.remove(Scope::AbstractUnixSocket);
    }
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(handled)?
        .scope(scopes)?;
    for (ports, access) in ports(needs) {
        if ports.is_some() {
            ruleset = ruleset.handle_access(access)?;
        }
    }
    let mut created = ruleset.create()?;
    for (path, rights) in &rules.paths {
        created = allow(created, path, *rights & handled)?;
    }
    for (ports, access) in ports(needs) {
        for port in ports.into_iter().flatten() {
            created = created.add_rule(NetPort::new(*port, access))?;
        }
    }
    // Its own descriptors and memory, as the metrics tell.
    if let Some(own) = own_directory() {
        created =
            created.add_rule(PathBeneath::new(own, (AccessFs::ReadFile | AccessFs::ReadDir) & handled))?;
    }
    created.restrict_self()
}

fn ports(needs: &Needs) -> [(Option<&BTreeSet<u16>>, AccessNet); 2] {
    [(needs.bind.as_ref(), AccessNet::BindTcp), (needs.connect.as_ref(), AccessNet::ConnectTcp)]
}

/// What is not there is nothing to be allowed; whoever needs it will say so.
fn allow(
    to: RulesetCreated,
    path: &Path,
    rights: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    if rights.is_empty() {
        return Ok(to);
    }
    match open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Ok(at) => to.add_rule(PathBeneath::new(at, rights)),
        Err(_) => Ok(to),
    }
}

/// `/proc/self`. It stays open, for the kernel may forget an inode of /proc that nobody uses, and with it the rule,
/// which is the inode's.
fn own_directory() -> Option<&'static OwnedFd> {
    static OWN: OnceLock<Option<OwnedFd>> = OnceLock::new();
    OWN.get_or_init(|| open("/proc/self", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()).as_ref()
}

/// In words: whether all of it is enforced, or why none.
pub(super) fn in_words(status: &RestrictionStatus) -> Result<String, String> {
    let abi = match status.landlock {
        LandlockStatus::NotImplemented => {
            return Err("the kernel has none (it is there since 5.13), or whoever started this keeps it away (SystemCallFilter=)".to_owned());
        }
        LandlockStatus::NotEnabled => return Err("not among the kernel's lsm=".to_owned()),
        LandlockStatus::Available { effective_abi, kernel_abi } => kernel_abi.unwrap_or(effective_abi as i32),
    };
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => format!("on, ABI {abi}"),
        RulesetStatus::PartiallyEnforced => format!("on as far as the kernel knows it, ABI {abi}"),
        RulesetStatus::NotEnforced => return Err("the kernel enforces nothing of it".to_owned()),
    })
}
