//! The control API's contents: what is understood, what is refused and in which words, what is answered.
#![cfg(feature = "testing")]

use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;
use relay_core::Instant;
use relay_migration::api::{
    ApiError, BODY_MAX, Call, SessionView, SessionsAnswer, TargetAnswer, answer, parse,
};
use relay_migration::registry::{Config, Name, Network, Request, Side};
use relay_migration::testing::fuzz;
use relay_migration::testing::registry::world::World;

fn call(method: &str, path: &str, body: &str) -> Call {
    parse(method, path, body.as_bytes()).unwrap_or_else(|error| panic!("{method} {path} {body}: {error}"))
}

fn world() -> World {
    let address = IpAddr::from([10, 1, 1, 1]);
    World::new(Config::new(Network { bind: address, advertise: address }))
}

fn ask(world: &mut World, method: &str, path: &str, body: &str) -> Result<String, ApiError> {
    let Call::Registry(request) = call(method, path, body) else { panic!("no request: {path}") };
    let body = answer(&world.request(request))?;
    Ok(String::from_utf8_lossy(&body).into_owned())
}

#[test]
fn targets_and_sources_as_the_contract_has_them() {
    let mut world = world();
    let body = r#"{"backends":{"0":"/q","49152":"/m"},"lease_s":60}"#;
    let answer = ask(&mut world, "PUT", "/v1/targets/mykey", body).expect("target");
    assert_eq!(answer, r#"{"ports":{"32768":0,"32769":49152},"address":"10.1.1.1"}"#);
    let view = world.registry.target(&"mykey".parse().expect("key"), Instant::ZERO).expect("view");
    assert_eq!(
        serde_json::to_string(&TargetAnswer::from(view)).expect("JSON"),
        r#"{"ports":{"32768":0,"32769":49152},"address":"10.1.1.1","sessions":0,"lease_left_s":60}"#
    );
    let body =
        r#"{"target":"10.1.1.2","ports":{"32899":0},"base_dir":"/run/kv","owner":{"uid":107,"gid":107}}"#;
    let answer = ask(&mut world, "PUT", "/v1/sources/mykey", body).expect("source");
    assert_eq!(answer, r#"{"files":["/run/kv/migrationproxy/mykey-source.sock"]}"#);
    assert_eq!(ask(&mut world, "DELETE", "/v1/sources/mykey", ""), Ok(r#"{"existed":true}"#.into()));
    assert_eq!(ask(&mut world, "DELETE", "/v1/sources/mykey", ""), Ok(r#"{"existed":false}"#.into()));
    let name = Name::new(Side::Target, "mykey".parse().expect("key"));
    assert_eq!(call("GET", "/v1/targets/mykey", ""), Call::Get(name));
}

#[test]
fn the_other_calls() {
    for (method, path, body, expected) in [
        ("GET", "/v1/sessions", "", Call::Sessions),
        ("DELETE", "/v1/sessions/7", "", Call::EndSession(7)),
        ("POST", "/v1/drain", "", Call::Drain(None)),
        ("POST", "/v1/drain", "{}", Call::Drain(None)),
        ("POST", "/v1/drain", r#"{"timeout_s":0}"#, Call::Drain(Some(Duration::ZERO))),
        ("GET", "/v1/targets", "", Call::List(Side::Target)),
        ("GET", "/v1/sources", "", Call::List(Side::Source)),
        ("GET", "/healthz", "", Call::Health),
        ("GET", "/readyz", "", Call::Ready),
        ("GET", "/metrics", "", Call::Metrics),
    ] {
        assert_eq!(call(method, path, body), expected);
    }
    let mut world = world();
    let drained = world.request(Request::Shutdown { until: None });
    assert_eq!(answer(&drained), Ok(br#"{"migrations":0,"listeners":0,"sessions":0}"#.to_vec()));
    let refused =
        ask(&mut world, "PUT", "/v1/targets/k", r#"{"backends":{"0":"/q"}}"#).expect_err("shutdown");
    let words = "unable to process new migration connections during virt-handler shutdown";
    assert_eq!((refused.status, refused.message.as_str()), (503, words));
    assert_eq!(refused.body(), format!("{{\"error\":\"{words}\"}}").into_bytes());
    let session = SessionView {
        id: 1,
        key: "k".into(),
        side: "target".into(),
        channel: 0,
        peer: "10.1.1.1:5".into(),
        identity: Some("cn:x".into()),
        tls_session: Some("0f".into()),
        listen: "tls:[::]:1".into(),
        connect: "unix:/q".into(),
        stage: "open".into(),
        bytes_forward: 1,
        bytes_backward: 2,
        age_s: 3.5,
        stalled_for_s: 0.0,
    };
    assert_eq!(
        serde_json::to_string(&SessionsAnswer { sessions: vec![session] }).expect("JSON"),
        r#"{"sessions":[{"id":1,"key":"k","side":"target","channel":0,"peer":"10.1.1.1:5","identity":"cn:x","tls_session":"0f","listen":"tls:[::]:1","connect":"unix:/q","stage":"open","bytes_forward":1,"bytes_backward":2,"age_s":3.5,"stalled_for_s":0.0}]}"#
    );
}

#[test]
fn what_is_wrong_is_told_with_the_right_status() {
    const TARGET: &str = "/v1/targets/k";
    const SOURCE: &str = "/v1/sources/k";
    for (method, path, body, status, says) in [
        ("GET", "/", "", 404, "there are /v1/targets, /v1/targets/KEY"),
        ("PUT", "/v1/targets", "", 405, "use GET"),
        ("GET", "/v1/targets/k/x", "", 404, "there are /v1/targets, /v1/targets/KEY"),
        ("POST", TARGET, "", 405, "use PUT, GET or DELETE"),
        ("PUT", "/healthz", "", 405, "use GET"),
        ("GET", "/v1/drain", "", 405, "use POST"),
        ("GET", "/v1/targets/", "", 400, "key is empty"),
        ("GET", "/v1/targets/a%2Fb", "", 400, "made of letters"),
        ("GET", "/v1/targets/k-49152", "", 400, "another key's channel"),
        ("GET", TARGET, "{}", 400, "no body"),
        ("DELETE", "/v1/sessions/x", "", 400, "it is a number"),
        ("DELETE", "/v1/sessions/99999999999999999999", "", 400, "it is a number"),
        ("PUT", TARGET, "", 400, "body is empty"),
        ("PUT", TARGET, "{", 400, "can't be read: EOF"),
        ("PUT", TARGET, "{}", 400, "missing field `backends`"),
        ("PUT", TARGET, r#"{"backends":{}}"#, 400, "backends is empty"),
        ("PUT", TARGET, r#"{"backend":{}}"#, 400, "unknown field `backend`"),
        ("PUT", TARGET, r#"{"backends":{"0":"/a","0":"/b"}}"#, 400, "channel 0 is there twice"),
        ("PUT", TARGET, r#"{"backends":{"0":"/a"},"backends":{"0":"/b"}}"#, 400, "duplicate field"),
        ("PUT", TARGET, r#"{"backends":{"1":"/a"}}"#, 400, "there is no channel 1"),
        ("PUT", TARGET, r#"{"backends":{"0":"a"}}"#, 400, "does not begin with '/'"),
        ("PUT", TARGET, r#"{"backends":{"0":"/a"},"lease_s":0}"#, 400, "from 1 to 604800"),
        ("PUT", TARGET, r#"{"backends":{"0":"/a"},"lease_s":604801}"#, 400, "from 1 to 604800"),
        ("PUT", TARGET, r#"{"backends":{"0":"/a"},"lease_s":-1}"#, 400, "integer `-1`"),
        ("PUT", TARGET, r#"{"backends":{"0":"/a"},"lease_s":"1"}"#, 400, "expected a whole number"),
        ("PUT", TARGET, r#"{"backends":{"0":"/a"}} x"#, 400, "trailing characters"),
        ("PUT", SOURCE, r#"{"target":"x","ports":{},"base_dir":"/r"}"#, 400, "ports is empty"),
        ("PUT", SOURCE, r#"{"target":"a b","ports":{"1":0},"base_dir":"/r"}"#, 400, "neither an address"),
        ("PUT", SOURCE, r#"{"target":"fe80::1","ports":{"1":0},"base_dir":"/r"}"#, 400, "as in fe80::1%eth0"),
        ("PUT", SOURCE, r#"{"target":"x","ports":{"1":0},"base_dir":"r"}"#, 400, "does not begin with '/'"),
        (
            "PUT",
            SOURCE,
            r#"{"target":"x","ports":{"1":0},"base_dir":"/r","owner":{"uid":1}}"#,
            400,
            "missing field `gid`",
        ),
        ("PUT", SOURCE, r#"{"target":"x","ports":{"1":0},"base_dir":"/r","owner":7}"#, 400, "invalid type"),
        (
            "PUT",
            SOURCE,
            r#"{"target":"x","ports":{"1":0},"base_dir":"/r","owner":{"uid":4294967295,"gid":1}}"#,
            400,
            "4294967295 is no user",
        ),
        (
            "PUT",
            SOURCE,
            r#"{"target":"x","ports":{"1":0},"base_dir":"/r","owner":{"uid":1,"gid":4294967295}}"#,
            400,
            "4294967295 is no group",
        ),
        (
            "PUT",
            SOURCE,
            r#"{"target":"x","ports":{"1":0},"base_dir":"/r","owner":{"uid":1,"gid":4294967296}}"#,
            400,
            "expected a whole number from 0 to 4294967295",
        ),
        ("PUT", SOURCE, r#"{"target":"x","ports":{"1":"0"},"base_dir":"/r"}"#, 400, "the number 0, 49152 or"),
        (
            "PUT",
            SOURCE,
            r#"{"target":"x","ports":{"1":0},"base_dir":"/r","owner":[1,2]}"#,
            400,
            "expected an object",
        ),
        ("PUT", TARGET, r#"[{"0":"/a"}]"#, 400, "expected an object"),
        ("POST", "/v1/drain", r#"{"timeout":1}"#, 400, "unknown field `timeout`"),
        ("POST", "/v1/drain", r#"{"timeout_s":9999999}"#, 400, "604800 at most"),
    ] {
        let error = parse(method, path, body.as_bytes()).expect_err(&format!("{method} {path} {body}"));
        assert!(error.message.contains(says), "{error}");
        assert_eq!(error.status, status, "{error}");
        assert!(!error.message.contains('\n'));
    }
    let long = "x".repeat(BODY_MAX + 1);
    assert_eq!(parse("PUT", TARGET, long.as_bytes()).expect_err("too long").status, 413);
    assert_eq!(parse("GET", &format!("/{long}"), b"").expect_err("too long").status, 414);
}

proptest! {
    #[test]
    fn no_call_panics(
        line in "(PUT|GET|POST|DELETE) /(v1/)?(targets|sources|sessions|drain)?/?[a-z0-9%\\PC]{0,20}",
        body in "\\{(\"(backends|ports|target|base_dir|lease_s|owner)\":[{}\":0-9a-z/,]{0,20}){0,3}\\}?",
    ) {
        fuzz::api_call(format!("{line}\n{body}").as_bytes());
    }
}
