//! libvirt URIs: its own examples, every transport with every parameter, what KubeVirt builds, what
//! is no URI; and that reading and printing are each other's inverse.
#![cfg(feature = "testing")]

use proptest::prelude::*;
use relay_migration::testing::fuzz;
use relay_migration::uri::{
    Daemon, KnownHostsVerify, MigrationUris, Mode, Parameter, Parts, Proxy, SshAuth, Transport, Uri,
};
use relay_migration::{BaseDir, Host};

fn uri(text: &str) -> Uri {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn error(text: &str) -> String {
    text.parse::<Uri>().expect_err(text).to_string()
}

/// From docs/uri.rst, word for word.
#[test]
fn libvirts_own_examples() {
    for (text, transport, port) in [
        ("xen:///system", None, None),
        ("qemu:///session", None, None),
        ("test:///default", None, None),
        ("test:///path/to/host/definitions", None, None),
        ("qemu+ssh://root@hail.cloud.example.com/system", Some(Transport::Ssh), Some(22)),
        ("xen+ssh://rjones@towada/system", Some(Transport::Ssh), Some(22)),
        ("xen://towada/system", Some(Transport::Tls), Some(16514)),
        ("xen://towada/system?no_verify=1", Some(Transport::Tls), Some(16514)),
        ("qemu+unix:///system?socket=/opt/libvirt/run/libvirt/libvirt-sock", Some(Transport::Unix), None),
        ("test+tcp://localhost:5000/default", Some(Transport::Tcp), Some(5000)),
        (
            "qemu+libssh2://user@host/system?known_hosts=/home/user/.ssh/known_hosts",
            Some(Transport::Libssh2),
            Some(22),
        ),
        (
            "qemu+libssh://user@host/system?known_hosts=/home/user/.ssh/known_hosts",
            Some(Transport::Libssh),
            Some(22),
        ),
    ] {
        let uri = uri(text);
        assert_eq!(uri.to_string(), text);
        assert_eq!((uri.transport(), uri.port()), (transport, port), "{text}");
        assert_eq!(uri.is_remote(), transport.is_some(), "{text}");
    }
    assert_eq!(uri("qemu+tcp://h/system").port(), Some(16509));
}

#[test]
fn every_transport_understands_its_parameters_and_passes_the_others_on() {
    let examples = [
        ("name", "qemu:///system", Parameter::Name("qemu:///system".into())),
        ("mode", "direct", Parameter::Mode(Mode::Direct)),
        ("socket", "/run/x.sock", Parameter::Socket("/run/x.sock".into())),
        ("tls_priority", "NORMAL:-VERS-SSL3.0", Parameter::TlsPriority("NORMAL:-VERS-SSL3.0".into())),
        ("no_verify", "1", Parameter::NoVerify(true)),
        ("pkipath", "/tmp/pki/client", Parameter::PkiPath("/tmp/pki/client".into())),
        ("proxy", "native", Parameter::Proxy(Proxy::Native)),
        ("command", "/opt/openssh/bin/ssh", Parameter::Command("/opt/openssh/bin/ssh".into())),
        ("netcat", "/opt/netcat/bin/nc", Parameter::Netcat("/opt/netcat/bin/nc".into())),
        ("keyfile", "/root/.ssh/example_key", Parameter::Keyfile("/root/.ssh/example_key".into())),
        ("no_tty", "1", Parameter::NoTty(true)),
        ("known_hosts", "/root/.ssh/known_hosts", Parameter::KnownHosts("/root/.ssh/known_hosts".into())),
        ("known_hosts_verify", "ignore", Parameter::KnownHostsVerify(KnownHostsVerify::Ignore)),
        ("sshauth", "privkey,agent", Parameter::SshAuth(vec![SshAuth::Privkey, SshAuth::Agent])),
    ];
    for transport in Transport::ALL {
        let host = if transport == Transport::Unix { "" } else { "host" };
        for (name, value, understood) in &examples {
            let text = format!("qemu+{transport}://{host}/system?{name}={value}");
            let uri = uri(&text);
            assert_eq!(uri.to_string(), text);
            let passed_on = Parameter::Other { name: (*name).into(), value: (*value).into() };
            let takes = transport.parameters().contains(name);
            assert_eq!(
                uri.parts().parameters,
                [if takes { understood.clone() } else { passed_on }],
                "{text}"
            );
            let warned = uri.warnings().iter().any(|line| line.contains("has no parameter"));
            assert_eq!(warned, !takes, "{text}");
        }
    }
    // the table of the documents, counted
    let sizes: Vec<_> = Transport::ALL.iter().map(|t| (t.name(), t.parameters().len())).collect();
    assert_eq!(
        sizes,
        [("unix", 3), ("tls", 4), ("tcp", 1), ("ssh", 9), ("libssh", 9), ("libssh2", 9), ("ext", 2)]
    );
    let local = uri("test:///default?socket=x&seed=7");
    assert!(local.parts().parameters.iter().all(|p| matches!(p, Parameter::Other { .. })));
}

/// src/util/viruri.c and src/remote/remote_driver.c.
#[test]
fn read_as_libvirt_reads() {
    let one = uri("QEMU+SSH://h/system?MODE=auto");
    assert_eq!(one.to_string(), "qemu+ssh://h/system?mode=auto");
    // the last of several counts
    let two = uri("qemu+unix:///system?socket=/a&socket=/b");
    let socket = two.parameter(|p| if let Parameter::Socket(path) = p { Some(path.as_str()) } else { None });
    assert_eq!(socket, Some("/b"));
    assert_eq!(two.parts().parameters.len(), 2);
    // ';' separates too, but only behind the last '&'; nothing and "=x" are skipped
    let three = uri("test:///d?a=1;b=2&&=x&c=3;d");
    let pairs: Vec<_> = three.parts().parameters.iter().map(ToString::to_string).collect();
    assert_eq!(pairs, ["a=1;b=2", "c=3", "d="]);
    assert_eq!(three.to_string(), "test:///d?a=1%3Bb%3D2&c=3&d=");
    // a plus is a plus; any non-zero number is yes
    assert_eq!(uri("test:///d?x=a+b").parts().parameters[0].value(), "a+b");
    assert_eq!(uri("qemu://h/system?no_verify=-7").to_string(), "qemu://h/system?no_verify=1");
    // IPv6 with a zone, user with an escape
    let six = uri("qemu+ssh://a%3Ab@[fe80::1%25eth0]:22/system");
    assert_eq!(six.parts().host, Some(Host::V6("fe80::1".parse().expect("v6"), Some("eth0".into()))));
    assert_eq!(six.parts().username.as_deref(), Some("a:b"));
    assert_eq!(six.to_string(), "qemu+ssh://a%3Ab@[fe80::1%25eth0]:22/system");
    // an escaped path is the same path
    assert_eq!(uri("qemu+unix:///system?socket=%2frun%2Fx").to_string(), "qemu+unix:///system?socket=/run/x");
    assert_eq!(uri("esx://host").to_string(), "esx://host");
}

#[test]
fn errors_say_what_would_be_right() {
    for (text, says) in [
        ("", "begins with a driver"),
        ("/run/x.sock", "begins with a driver"),
        ("qemu:/system", "begins with a driver"),
        ("://h/", "is no driver"),
        ("9p://h/", "is no driver"),
        ("a_b:///x", "is no driver"),
        ("qemu+://h/", "is one of unix, tls, tcp"),
        ("qemu+quic://h/", "is one of unix, tls, tcp"),
        ("qemu+tls+x://h/", "is one of unix, tls, tcp"),
        ("qemu://", "path is missing"),
        ("qemu+unix://host/system", "this machine only"),
        ("qemu://user:secret@h/", "password does not belong"),
        ("qemu://@h/", "user name before '@' is empty"),
        ("qemu://h:/", "is no port"),
        ("qemu://h:x/", "is no port"),
        ("qemu://h:+1/", "is no port"),
        ("qemu://h:65536/", "is no port"),
        ("qemu://h:0/", "port 0"),
        ("qemu://::1/", "stands in brackets: [::1]"),
        ("qemu://[::1/", "not closed"),
        ("qemu://[::1]x/", "behind the bracket"),
        ("qemu://[1.2.3.4]/", "only those stand in brackets"),
        ("qemu://[fe80::1%eth0]/", "%25"),
        ("qemu://a b/", "%XX"),
        ("qemu://h/é", "%XX"),
        ("qemu://h/\n", "%XX"),
        ("qemu://h/%zz", "two hexadecimal digits"),
        ("qemu://h/%00", "%00"),
        ("qemu://h/%ff", "UTF-8"),
        ("qemu://h/#x", "%23"),
        ("qemu+ssh://h/?mode=fast", "none of auto, direct, legacy"),
        ("qemu+ssh://h/?proxy=x", "none of auto, netcat, native"),
        ("qemu+libssh://h/?known_hosts_verify=x", "none of normal, auto, ignore"),
        ("qemu+libssh://h/?sshauth=agent,x", "none of agent, privkey, password, keyboard-interactive"),
        ("qemu+libssh://h/?sshauth", "none of agent"),
        ("qemu://h/?no_verify=yes", "write no_verify=1"),
        ("qemu+unix:///system?socket", "write socket=VALUE"),
        (&format!("qemu:///{}", "x".repeat(8192)), "it may have 8192"),
    ] {
        let message = error(text);
        assert!(message.contains(says), "{text:?} gave {message:?}");
        assert!(!message.contains('\n'));
    }
}

#[test]
fn what_kubevirt_builds() {
    let base: BaseDir = "/var/run/kubevirt".parse().expect("base");
    let key = "d62c2a6f-d8f3-4cc5-a22e-4cffb7d5eac1".parse().expect("key");
    let uris = MigrationUris::new(&base, &key, Daemon::System, false).expect("URIs");
    let socket = format!("{base}/migrationproxy/{key}-source.sock");
    assert_eq!(uris.dconnuri.to_string(), format!("qemu+unix:///system?socket={socket}"));
    assert_eq!(uri(&uris.dconnuri.to_string()), uris.dconnuri);
    assert_eq!(uris.migrate_uri.to_string(), format!("unix://{base}/migrationproxy/{key}-49152-source.sock"));
    assert_eq!(uris.disks_uri, None);
    // what unix(7) does not allow, libvirt can't dial
    let deep: BaseDir = format!("/{}", "x".repeat(60)).parse().expect("base");
    let message = MigrationUris::new(&deep, &key, Daemon::Session, true).expect_err("too long").to_string();
    assert!(message.contains("107"), "{message}");
}

#[test]
fn dangerous_ones_are_told() {
    let warnings = |text: &str| uri(text).warnings().join("\n");
    assert!(warnings("qemu+tcp://h/system").contains("not encrypted"));
    assert!(warnings("qemu://h/system?no_verify=1").contains("not checked"));
    assert!(warnings("qemu+ssh://h/system?proxy=native&netcat=nc").contains("not permitted"));
    assert_eq!(warnings("qemu://h/system?no_verify=0"), "");
}

fn host() -> impl Strategy<Value = Host> {
    prop_oneof![
        any::<u32>().prop_map(|n| Host::V4(n.into())),
        (any::<u128>(), prop::option::of("[a-z0-9.:?#&-]{1,15}")).prop_map(|(n, z)| Host::V6(n.into(), z)),
        "([a-z_][a-z0-9-]{0,20}\\.){0,3}[a-z][a-z0-9-]{0,20}".prop_map(Host::Name),
    ]
}

fn parameter(transport: Option<Transport>) -> impl Strategy<Value = Parameter> {
    let known = transport.map_or_else(|| vec!["x"], |transport| transport.parameters().to_vec());
    let name = prop_oneof![3 => prop::sample::select(known).prop_map(str::to_owned), 1 => "[^\u{0}]{1,6}"];
    let value = prop_oneof![
        "[^\u{0}]{1,12}",
        prop::sample::select(vec!["auto", "0", "1", "native", "ignore", "agent,password"])
            .prop_map(str::to_owned),
    ];
    (name, value).prop_filter_map("no value for it", move |(name, value)| {
        Parameter::new(transport, &name, &value).ok()
    })
}

fn parts() -> impl Strategy<Value = Parts> {
    let transport = prop::option::of(prop::sample::select(Transport::ALL.to_vec()));
    (transport, prop::option::of(host()))
        .prop_map(
            |(transport, host)| {
                if transport == Some(Transport::Unix) { (transport, None) } else { (transport, host) }
            },
        )
        .prop_flat_map(|(transport, host)| {
            let effective = transport.or_else(|| host.as_ref().map(|_| Transport::Tls));
            (
                "[a-z][a-z0-9.-]{0,10}",
                Just(transport),
                prop::option::of("[^\u{0}]{1,8}"),
                Just(host),
                prop::option::of(1..=u16::MAX),
                "/[^\u{0}]{0,20}",
                prop::collection::vec(parameter(effective), 0..5),
            )
        })
        .prop_map(|(driver, transport, username, host, port, path, parameters)| Parts {
            driver,
            transport,
            username,
            host,
            port,
            path,
            parameters,
        })
}

proptest! {
    #[test]
    fn every_uri_survives_the_round_trip(parts in parts()) {
        let uri = Uri::new(parts).expect("parts");
        let printed = uri.to_string();
        prop_assert!(printed.is_ascii() && !printed.contains(char::is_whitespace));
        prop_assert_eq!(printed.parse::<Uri>(), Ok(uri));
    }

    #[test]
    fn no_text_panics_and_what_parses_is_stable(
        text in "(qemu|test)(\\+(ssh|tls|unix|libssh))?://[-a-z0-9@:.\\[\\]%/]{0,20}[\\PC]{0,30}"
    ) {
        fuzz::libvirt_uri(text.as_bytes());
    }

    #[test]
    fn no_bytes_panic(data in prop::collection::vec(any::<u8>(), 0..60)) {
        fuzz::libvirt_uri(&data);
        fuzz::names(&data);
        fuzz::maps(&data);
    }
}
