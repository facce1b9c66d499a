//! `uri`: libvirt URIs taken apart and built, for people and for programs.

use relay_migration::Invalid;
use relay_migration::uri::{MigrationUris, Parameter, Uri};
use serde::Serialize;

use crate::cli::{Build, UriTask};

/// A URI's parts, with what goes without saying.
#[derive(Serialize)]
struct Parts<'a> {
    uri: String,
    driver: &'a str,
    transport: Option<&'static str>,
    username: Option<&'a str>,
    host: Option<String>,
    port: Option<u16>,
    path: &'a str,
    parameters: Vec<Pair<'a>>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Pair<'a> {
    name: &'a str,
    value: String,
}

#[derive(Serialize)]
struct Built {
    dconnuri: String,
    migrate_uri: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    disks_uri: Option<String>,
}

/// What is to be printed, without the last line's end.
///
/// # Errors
/// What libvirt could not use, and why.
pub(crate) fn run(asked: &UriTask) -> Result<String, String> {
    match &asked.task {
        Ok(uri) if asked.json => json(&parts(uri)),
        Ok(uri) => Ok(apart(uri)),
        Err(build) => {
            let built = built(build).map_err(|error| error.to_string())?;
            if asked.json { json(&built) } else { Ok(together(&built)) }
        }
    }
}

fn json(what: &impl Serialize) -> Result<String, String> {
    serde_json::to_string(what).map_err(|error| error.to_string())
}

fn parts(uri: &Uri) -> Parts<'_> {
    let parts = uri.parts();
    let pair = |parameter: &'_ Parameter| parameter.value();
    Parts {
        uri: uri.to_string(),
        driver: &parts.driver,
        transport: uri.transport().map(|transport| transport.name()),
        username: parts.username.as_deref(),
        host: parts.host.as_ref().map(ToString::to_string),
        port: uri.port(),
        path: &parts.path,
        parameters: parts.parameters.iter().map(|p| Pair { name: p.name(), value: pair(p) }).collect(),
        warnings: uri.warnings(),
    }
}

fn apart(uri: &Uri) -> String {
    let Parts { uri: whole, driver, transport, username, host, port, path, parameters, warnings } =
        parts(uri);
    let given = uri.parts();
    let transport = match (transport, given.transport) {
        (Some(transport), None) => format!("{transport} (since there is a host)"),
        (Some(transport), Some(_)) => transport.to_owned(),
        (None, _) => "none: this machine's own daemon".to_owned(),
    };
    let port = port.map(|port| match given.port {
        Some(_) => port.to_string(),
        None => format!("{port} (the transport's own)"),
    });
    let mut lines = Lines::default();
    lines.push("uri", &whole);
    lines.push("driver", driver);
    lines.push("transport", &transport);
    let optional = [("username", username), ("host", host.as_deref()), ("port", port.as_deref())];
    for (name, value) in optional {
        if let Some(value) = value {
            lines.push(name, value);
        }
    }
    if !path.is_empty() {
        lines.push("path", path);
    }
    for Pair { name, value } in &parameters {
        lines.push(name, value);
    }
    for warning in &warnings {
        lines.push("warning", warning);
    }
    lines.print()
}

fn built(build: &Build) -> Result<Built, Invalid> {
    let uris = MigrationUris::new(&build.base_dir, &build.key, build.daemon, build.disks)?;
    Ok(Built {
        dconnuri: uris.dconnuri.to_string(),
        migrate_uri: uris.migrate_uri.to_string(),
        disks_uri: uris.disks_uri.map(|uri| uri.to_string()),
    })
}

fn together(built: &Built) -> String {
    let mut lines = Lines::default();
    lines.push("dconnuri", &built.dconnuri);
    lines.push("migrate_uri", &built.migrate_uri);
    if let Some(uri) = &built.disks_uri {
        lines.push("disks_uri", uri);
    }
    lines.print()
}

/// Names and values in two columns.
#[derive(Default)]
struct Lines(Vec<(String, String)>);

impl Lines {
    fn push(&mut self, name: &str, value: &str) {
        self.0.push((one_line(name), one_line(value)));
    }

    fn print(&self) -> String {
        let width = self.0.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let lines: Vec<_> = self.0.iter().map(|(name, value)| format!("{name:<width$}  {value}")).collect();
        lines.join("\n")
    }
}

/// Somebody else's text: a line stays a line.
fn one_line(text: &str) -> String {
    text.chars().fold(String::new(), |mut line, c| {
        if c.is_control() {
            line.extend(c.escape_default())
        } else {
            line.push(c)
        }
        line
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use relay_migration::uri::Daemon;

    fn read(uri: &str, json: bool) -> String {
        run(&UriTask { task: Ok(uri.parse().expect("URI")), json }).expect("printed")
    }

    #[test]
    fn a_uri_is_taken_apart() {
        assert_eq!(
            read("qemu+ssh://root@node-2/system?keyfile=/id%0a&known_hosts_verify=x", false),
            "\
uri                 qemu+ssh://root@node-2/system?keyfile=/id%0A&known_hosts_verify=x
driver              qemu
transport           ssh
username            root
host                node-2
port                22 (the transport's own)
path                /system
keyfile             /id\\n
known_hosts_verify  x
warning             the transport ssh has no parameter known_hosts_verify; it is passed to the driver"
        );
        assert!(read("qemu:///session", false).contains("transport  none: this machine's own daemon"));
        assert!(read("xen://h:5/", false).contains("transport  tls (since there is a host)"));
        let json = read("qemu+tcp://[fd00::1]/system?a=b", true);
        assert_eq!(
            json,
            r#"{"uri":"qemu+tcp://[fd00::1]/system?a=b","driver":"qemu","transport":"tcp","username":null,"host":"fd00::1","port":16509,"path":"/system","parameters":[{"name":"a","value":"b"}],"warnings":["the transport tcp is not encrypted"]}"#
        );
    }

    #[test]
    fn a_migrations_uris_are_built() {
        let build = |base: &str, disks| Build {
            key: "vm1".parse().expect("key"),
            base_dir: base.parse().expect("directory"),
            daemon: Daemon::System,
            disks,
        };
        let run = |build, json| run(&UriTask { task: Err(build), json });
        assert_eq!(
            run(build("/run/relay", true), false).expect("built"),
            "\
dconnuri     qemu+unix:///system?socket=/run/relay/migrationproxy/vm1-source.sock
migrate_uri  unix:///run/relay/migrationproxy/vm1-49152-source.sock
disks_uri    unix:///run/relay/migrationproxy/vm1-49153-source.sock"
        );
        assert_eq!(
            run(build("/run", false), true).expect("built"),
            r#"{"dconnuri":"qemu+unix:///system?socket=/run/migrationproxy/vm1-source.sock","migrate_uri":"unix:///run/migrationproxy/vm1-49152-source.sock"}"#
        );
        let error = run(build(&"/x".repeat(60), false), false).expect_err("too long for libvirt");
        assert!(error.contains("libvirt can connect to 107"), "{error}");
    }
}
