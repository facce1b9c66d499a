//! Where requests may name sockets: `--socket-dir`. Names only; where they lead, links included, is the operator's.

use std::path::Path;

use relay_migration::BaseDir;
use relay_migration::api::ApiError;
use relay_migration::registry::Request;

/// Directories; anywhere without any.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Bounds(Vec<BaseDir>);

impl Bounds {
    pub(super) const fn new(directories: Vec<BaseDir>) -> Self {
        Self(directories)
    }

    /// Whether all that a request names is within.
    ///
    /// # Errors
    /// What is not, and what would be.
    pub(super) fn check(&self, request: &Request) -> Result<(), ApiError> {
        match request {
            Request::SetTarget(asked) => {
                asked.backends.iter().try_for_each(|(_, path)| self.within(path.as_path()))
            }
            Request::SetSource(asked) => self.within(asked.base_dir.as_path()),
            Request::Delete(_) | Request::Renew(_) | Request::Shutdown { .. } => Ok(()),
        }
    }

    fn within(&self, path: &Path) -> Result<(), ApiError> {
        if self.0.is_empty() || self.0.iter().any(|directory| path.starts_with(directory.as_path())) {
            return Ok(());
        }
        let known: Vec<_> = self.0.iter().map(BaseDir::as_str).collect();
        let (path, known) = (path.display(), known.join(", "));
        Err(ApiError::bad(format!("{path} is outside of what --socket-dir allows: {known}")))
    }
}

#[cfg(test)]
mod tests {
    use relay_migration::api::{self, Call};

    use super::*;

    fn request(path: &str, body: &str) -> Request {
        match api::parse("PUT", path, body.as_bytes()) {
            Ok(Call::Registry(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn requests_name_sockets_within_the_directories_that_are_allowed() {
        let bounds =
            Bounds::new(["/run/libvirt", "/run/qemu"].map(|text| text.parse().expect("directory")).into());
        let target = |paths: [&str; 2]| {
            let [first, second] = paths;
            request("/v1/targets/vm", &format!(r#"{{"backends":{{"0":"{first}","49152":"{second}"}}}}"#))
        };
        let source = |base: &str| {
            request("/v1/sources/vm", &format!(r#"{{"target":"::1","ports":{{"7":0}},"base_dir":"{base}"}}"#))
        };
        let within =
            [target(["/run/libvirt/a/sock", "/run/qemu/b"]), source("/run/qemu"), source("/run/qemu/x")];
        let outside = [
            target(["/run/libvirt/a", "/run/else"]),
            target(["/run/libvirtx", "/run/qemu/b"]),
            source("/run"),
            source("/proc/1/root/run/qemu"),
        ];
        for request in &within {
            assert_eq!(bounds.check(request), Ok(()), "{request:?}");
        }
        for request in &outside {
            let error = bounds.check(request).expect_err("outside");
            assert_eq!(error.status, 400);
            assert!(
                error.message.ends_with("--socket-dir allows: /run/libvirt, /run/qemu"),
                "{}",
                error.message
            );
            assert_eq!(Bounds::default().check(request), Ok(()));
        }
        assert!(
            api::parse(
                "PUT",
                "/v1/sources/vm",
                br#"{"target":"::1","ports":{"7":0},"base_dir":"/run/qemu/../x"}"#
            )
            .is_err()
        );
    }
}
