//! The API over its socket, byte for byte as fleet documented it, on records as leader and agents write
//! them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};
use uuid::Uuid;

use super::*;
use crate::{model::*, plan::fleet::text_hash};

const HELLO: &str = "[Unit]\nDescription=Hello\n\n[Service]\nExecStart=/bin/sleep 5\n";

struct Served {
    store: Store,
    dir: tempfile::TempDir,
    _stop: tokio_util::sync::DropGuard,
}

/// Two hosts; `hello.service` runs on the first one.
async fn served() -> Served {
    let store = Store::memory();
    let mut txn = Txn::new();
    for n in 1..=2 {
        let id = machine(n);
        let address = format!("10.0.0.{n}");
        txn = txn
            .put(
                &keys::machine(&id),
                &Machine {
                    schema: SCHEMA,
                    id: id.clone(),
                    hostname: format!("deis-0{n}"),
                    address: address.clone(),
                    memory_bytes: 1,
                    cpus: 1,
                    version: "2".into(),
                    boot_id: "b".into(),
                    metadata: [("zone".to_owned(), "a".to_owned())].into(),
                },
            )
            .put(
                &keys::host(&id),
                &HostRecord {
                    schema: SCHEMA,
                    hostname: format!("deis-0{n}"),
                    address,
                    labels: BTreeMap::new(),
                    cordoned: false,
                    drain: None,
                    lost_since: None,
                    declared_lost: false,
                },
            );
    }
    store.commit(txn).await.expect("stored");
    run(&store, "hello.service", HELLO).await;
    let dir = tempfile::tempdir().expect("dir");
    let stop = CancellationToken::new();
    serve(&dir.path().join("fleet.sock"), store.clone(), stop.clone()).expect("served");
    Served {
        store,
        dir,
        _stop: stop.drop_guard(),
    }
}

fn machine(n: u8) -> MachineId {
    format!("{n:032x}").parse().expect("id")
}

/// What leader and agent make of a launched unit.
async fn run(store: &Store, name: &str, text: &str) {
    let uuid = Uuid::from_u128(7);
    let (id, unit) = (machine(1), name.parse().expect("name"));
    let work = Work::Unit {
        hash: text_hash(text),
    };
    let assignment = Assignment {
        schema: SCHEMA,
        uuid,
        desired: Desired::Run,
        work,
    };
    let state = ProcessState {
        uuid,
        phase: Phase::Up,
        ready: true,
        port: None,
        withdrawn: None,
        fenced: None,
        restarts: 0,
        exit: None,
        exit_code: None,
        since: Timestamp::UNIX_EPOCH,
        reason: None,
        log: vec![],
        unit: Some(UnitWords {
            done: UnitTarget::Launched,
            load: "loaded".into(),
            active: "active".into(),
            sub: "running".into(),
        }),
    };
    let report = MachineState {
        schema: SCHEMA,
        registration: None,
        processes: [(name.to_owned(), state)].into(),
    };
    let file = UnitFile {
        schema: SCHEMA,
        text: text.to_owned(),
        target: UnitTarget::Launched,
    };
    let txn = Txn::new()
        .put(&keys::unit(&unit), &file)
        .put(&keys::assignment(&id, name), &assignment)
        .put(&keys::state(&id), &report);
    store.commit(txn).await.expect("stored");
}

impl Served {
    /// A request as bytes, and the answer's status, head and body.
    async fn raw(&self, request: &str) -> (u16, String, String) {
        let mut socket = UnixStream::connect(self.dir.path().join("fleet.sock"))
            .await
            .expect("connected");
        socket.write_all(request.as_bytes()).await.expect("sent");
        let mut text = String::new();
        socket.read_to_string(&mut text).await.expect("answered");
        let (head, body) = text.split_once("\r\n\r\n").expect("an answer");
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .expect("status");
        (status, head.to_ascii_lowercase(), body.to_owned())
    }

    async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let kind = if method == "PUT" {
            "Content-Type: application/json\r\n"
        } else {
            ""
        };
        let length = body.len();
        let request = format!(
            "{method} /fleet/v1{path} HTTP/1.1\r\nHost: domain-sock\r\nConnection: close\r\n\
             {kind}Content-Length: {length}\r\n\r\n{body}"
        );
        let (status, head, body) = self.raw(&request).await;
        assert!(head.contains("content-type: application/json"), "{head}");
        (status, body)
    }

    async fn text(&self, name: &str) -> Option<String> {
        let found = self
            .store
            .get(&keys::unit(&name.parse().expect("name")))
            .await
            .expect("read");
        found.map(|found| found.value.text)
    }
}

#[tokio::test]
async fn entities_are_fleets_byte_for_byte() {
    let served = served().await;
    let id = machine(1);
    let unit = format!(
        r#"{{"currentState":"launched","desiredState":"launched","machineID":"{id}","name":"hello.service","options":[{{"name":"Description","section":"Unit","value":"Hello"}},{{"name":"ExecStart","section":"Service","value":"/bin/sleep 5"}}]}}"#
    );
    let hash = fleet::hash(HELLO);
    assert_eq!(hash.len(), 40);
    let state = format!(
        r#"{{"states":[{{"hash":"{hash}","machineID":"{id}","name":"hello.service","systemdActiveState":"active","systemdLoadState":"loaded","systemdSubState":"running"}}]}}"#
    );
    let machines = format!(
        r#"{{"machines":[{{"id":"{id}","metadata":{{"zone":"a"}},"primaryIP":"10.0.0.1"}},{{"id":"{}","metadata":{{"zone":"a"}},"primaryIP":"10.0.0.2"}}]}}"#,
        machine(2)
    );
    let cases = [
        ("/units/hello.service", 200, unit.clone()),
        ("/units", 200, format!(r#"{{"units":[{unit}]}}"#)),
        ("/state", 200, state.clone()),
        ("/state?unitName=hello.service", 200, state.clone()),
        (&*format!("/state?machineID={id}&unitName="), 200, state),
        ("/state?unitName=other.service", 200, "{}".to_owned()),
        ("/machines", 200, machines),
        (
            "/units/none.service",
            404,
            r#"{"error":{"code":404,"message":"unit does not exist"}}"#.to_owned(),
        ),
        (
            "/machines?nextPageToken=EwBMLg==",
            400,
            r#"{"error":{"code":400,"message":"invalid value of nextPageToken query parameter"}}"#
                .to_owned(),
        ),
        (
            "/cats",
            404,
            r#"{"error":{"code":404,"message":""}}"#.to_owned(),
        ),
    ];
    for (path, status, body) in cases {
        assert_eq!(served.ask("GET", path, "").await, (status, body), "{path}");
    }
    let (status, document) = served.ask("GET", "/discovery", "").await;
    assert_eq!(status, 200);
    assert!(document.contains(r#""rootUrl":"$ENDPOINT/""#), "{document}");
    let mode = std::fs::metadata(served.dir.path().join("fleet.sock"))
        .expect("socket")
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o600, "root's alone");
}

#[tokio::test]
async fn units_are_created_changed_and_destroyed() {
    let served = served().await;
    let options = r#"[{"section":"Service","name":"ExecStart","value":"/usr/bin/sleep 3000"}]"#;
    let launched = format!(r#"{{"desiredState":"launched","options":{options}}}"#);
    let none = String::new();
    let message =
        |code: u16, text: &str| format!(r#"{{"error":{{"code":{code},"message":"{text}"}}}}"#);
    let cases = [
        (
            "PUT",
            "foo.service",
            r#"{"desiredState":"launched"}"#,
            409,
            message(409, "unit does not exist and options field empty"),
        ),
        ("PUT", "foo.service", &launched, 201, none.clone()),
        ("PUT", "foo.service", &launched, 204, none.clone()),
        (
            "PUT",
            "foo.service",
            r#"{"desiredState":"inactive"}"#,
            204,
            none.clone(),
        ),
        (
            "PUT",
            "foo.service",
            "{}",
            409,
            message(409, "must provide DesiredState to update existing unit"),
        ),
        (
            "PUT",
            "foo.service",
            r#"{"name":"bar.service","desiredState":"loaded"}"#,
            400,
            message(
                400,
                r#"name in URL \"foo.service\" differs from unit name in request body \"bar.service\""#,
            ),
        ),
        (
            "PUT",
            "foo.service",
            r#"{"desiredState":"exploded"}"#,
            400,
            message(
                400,
                r#"invalid value \"exploded\" for desiredState: use inactive, loaded or launched"#,
            ),
        ),
        ("DELETE", "foo.service", "", 204, none.clone()),
        (
            "DELETE",
            "foo.service",
            "",
            404,
            message(404, "unit does not exist"),
        ),
    ];
    for (method, unit, body, status, want) in cases {
        let got = served.ask(method, &format!("/units/{unit}"), body).await;
        assert_eq!(got, (status, want), "{method} {unit} {body}");
    }
    // Other options are another unit of that name; the same ones, written otherwise, are not.
    let same = r#"{"desiredState":"loaded","options":[{"section":"Unit","name":"Description","value":"Hello"},{"section":"Service","name":"ExecStart","value":"/bin/sleep 5"}]}"#;
    assert_eq!(served.ask("PUT", "/units/hello.service", same).await.0, 204);
    assert_eq!(served.text("hello.service").await.as_deref(), Some(HELLO));
    assert_eq!(
        served.ask("PUT", "/units/hello.service", &launched).await.0,
        201
    );
    let text = served.text("hello.service").await;
    assert_eq!(
        text.as_deref(),
        Some("[Service]\nExecStart=/usr/bin/sleep 3000\n")
    );
    for method in ["POST", "PATCH"] {
        assert_eq!(served.ask(method, "/units/hello.service", "").await.0, 405);
    }
    for path in ["/units", "/state", "/discovery"] {
        assert_eq!(served.ask("DELETE", path, "").await.0, 405, "{path}");
    }
}

#[tokio::test]
async fn machines_are_labelled_all_or_none() {
    let served = served().await;
    let (one, two) = (machine(1), machine(2));
    let patch = format!(
        r#"[{{"op":"add","path":"/{one}/metadata/foo","value":"bar"}},{{"op":"replace","path":"/{two}/metadata/ping","value":"splat"}}]"#
    );
    assert_eq!(
        served.ask("PATCH", "/machines", &patch).await,
        (204, String::new())
    );
    let labels = async |id: &MachineId| {
        served
            .store
            .get(&keys::host(id))
            .await
            .expect("read")
            .expect("there")
            .value
            .labels
    };
    assert_eq!(
        labels(&one).await,
        [("foo".to_owned(), "bar".to_owned())].into()
    );
    assert_eq!(
        labels(&two).await,
        [("ping".to_owned(), "splat".to_owned())].into()
    );
    for bad in [
        format!(
            r#"[{{"op":"remove","path":"/{one}/metadata/foo"}},{{"op":"noop","path":"/{one}/metadata/foo"}}]"#
        ),
        format!(
            r#"[{{"op":"remove","path":"/{one}/metadata/foo"}},{{"op":"add","path":"/{one}/foo","value":"x"}}]"#
        ),
        format!(
            r#"[{{"op":"remove","path":"/{one}/metadata/foo"}},{{"op":"add","path":"/{}/metadata/a","value":"x"}}]"#,
            machine(9)
        ),
        "{}".to_owned(),
        "nonsense".to_owned(),
    ] {
        assert_eq!(served.ask("PATCH", "/machines", &bad).await.0, 400, "{bad}");
        assert_eq!(labels(&one).await.len(), 1, "{bad}");
    }
    let remove = format!(r#"[{{"op":"remove","path":"/{one}/metadata/foo"}}]"#);
    assert_eq!(served.ask("PATCH", "/machines", &remove).await.0, 204);
    assert!(labels(&one).await.is_empty());
}

#[tokio::test]
async fn lists_come_in_pages_of_a_hundred() {
    let served = served().await;
    let wishes = (0..200).map(|n| {
        let wish = Wish {
            text: Some(HELLO.to_owned()),
            ..Wish::default()
        };
        (format!("u{n:03}.service").parse().expect("name"), wish)
    });
    units::apply(&served.store, &wishes.collect(), &Txn::new())
        .await
        .expect("submitted");
    let (mut names, mut token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let query = if token.is_empty() {
            String::new()
        } else {
            format!("?nextPageToken={token}")
        };
        let (status, body) = served.ask("GET", &format!("/units{query}"), "").await;
        assert_eq!(status, 200);
        let page: serde_json::Value = serde_json::from_str(&body).expect("json");
        let units = page["units"].as_array().expect("units");
        names.extend(
            units
                .iter()
                .map(|unit| unit["name"].as_str().expect("name").to_owned()),
        );
        pages += 1;
        match page["nextPageToken"].as_str() {
            Some(next) => next.clone_into(&mut token),
            None => break,
        }
    }
    assert_eq!((names.len(), pages), (201, 3));
    assert!(names.is_sorted());
}

#[tokio::test]
async fn hostile_requests_are_refused_and_change_nothing() {
    let served = served().await;
    let before = served
        .store
        .list(&keys::units())
        .await
        .expect("list")
        .revision;
    let put = |options: &str| format!(r#"{{"desiredState":"launched","options":{options}}}"#);
    let options = [
        r#"[{"section":"Service","name":"ExecStart","value":"/bin/true\n[X-Fleet]\nGlobal=true"}]"#,
        r#"[{"section":"Service]\n[X-Fleet","name":"Global","value":"true"}]"#,
        r#"[{"section":"Service","name":"A=1\nUser","value":"root"}]"#,
        r#"[{"section":"Service","name":"ExecStart","value":"a\\"}]"#,
        r#"[{"section":"Service","name":"ExecStart","value":"a\u0000b"}]"#,
        r#"[{"section":"X-Fleet","name":"Global","value":"perhaps"}]"#,
        r#"[{"section":"X-Fleet","name":"Nonsense","value":"1"}]"#,
        r#"[{"section":5}]"#,
        r#""[Service]""#,
    ];
    for options in options {
        let (status, body) = served.ask("PUT", "/units/x.service", &put(options)).await;
        assert_eq!(status, 400, "{options}: {body}");
    }
    let good = put(r#"[{"section":"Service","name":"ExecStart","value":"/bin/true"}]"#);
    for name in [
        "x",
        "x.scope",
        "..%2f..%2fetc.service",
        ".service",
        "a%0ab.service",
        "blog_v1.web.1.service",
        "@1.service",
        "x%00.service",
        "%ff.service",
    ] {
        assert_eq!(
            served.ask("PUT", &format!("/units/{name}"), &good).await.0,
            400,
            "{name}"
        );
    }
    assert_eq!(
        served.ask("PUT", "/units/x@.service", &good).await.0,
        400,
        "a template is not launched"
    );
    let long = put(&format!(
        r#"[{{"section":"Service","name":"A","value":"{}"}}]"#,
        "x".repeat(70_000)
    ));
    assert_eq!(served.ask("PUT", "/units/x.service", &long).await.0, 400);
    let huge = "x".repeat(MAX_BODY + 1);
    assert_eq!(served.ask("PUT", "/units/x.service", &huge).await.0, 400);
    let plain = "PUT /fleet/v1/units/x.service HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}";
    assert_eq!(served.raw(plain).await.0, 415);
    let outside = "GET /etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert_eq!(served.raw(outside).await.0, 404);
    let document = "GET /fleet/v1.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert_eq!(served.raw(document).await.0, 200);
    let twice = served.ask("GET", "/state?unitName=a&unitName=b", "").await;
    assert_eq!(twice.0, 400);
    let after = served
        .store
        .list(&keys::units())
        .await
        .expect("list")
        .revision;
    assert_eq!(before, after, "nothing was written");
}
