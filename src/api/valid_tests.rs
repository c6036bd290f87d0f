//! Requests and refusals, in tables.

use std::collections::BTreeMap;

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{ask, valid::*};
use crate::model::{DomainName, ReleaseNumber};

fn fields(value: Value) -> Fields {
    match value {
        Value::Object(map) => map,
        other => panic!("{other} is no object"),
    }
}

fn why<T>(result: Result<T, Refusal>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(refusal) => refusal.body().to_string(),
    }
}

#[test]
fn app_ids() {
    let cases = [
        (json!({}), "ok"),
        (json!({"id": "blog"}), "ok"),
        (json!({"id": null}), "ok"),
        (
            json!({"id": "Blog"}),
            r#"{"id":["App IDs can only contain [a-z0-9-]."]}"#,
        ),
        (
            json!({"id": "a'; rm -rf /"}),
            r#"{"id":["App IDs can only contain [a-z0-9-]."]}"#,
        ),
        (
            json!({"id": "deis"}),
            r#"{"id":["deis is a reserved name."]}"#,
        ),
        (json!({"id": 7}), r#"{"id":["Not a valid string."]}"#),
    ];
    for (body, want) in cases {
        assert_eq!(why(app_id(&fields(body.clone()))), want, "{body}");
    }
}

#[test]
fn configs() {
    let key = r#"{"values":["Config keys must start with a letter or underscore and only contain [A-z0-9_]"]}"#;
    let memory = r#"{"memory":["Limit format: <number><unit>, where unit = B, K, M or G"]}"#;
    let cpu = r#"{"cpu":["CPU shares must be between 0 and 1024"]}"#;
    let cases = [
        (json!({}), "ok"),
        (json!({"values": {"FOO": "bar", "_x1": null}}), "ok"),
        (json!({"values": "{\"FOO\": \"bar\"}"}), "ok"),
        (
            json!({"values": "FOO=bar"}),
            r#"{"values":["Expected a JSON object."]}"#,
        ),
        (json!({"values": {"1FOO": "bar"}}), key),
        (json!({"values": {"FOO-BAR": "bar"}}), key),
        (json!({"values": {"": "bar"}}), key),
        (json!({"memory": {"web": "512M", "worker": "1gb"}}), "ok"),
        (json!({"memory": {"web": "512"}}), memory),
        (json!({"memory": {"web": "-1M"}}), memory),
        (
            json!({"memory": {"W;b": "1M"}}),
            r#"{"memory":["Process types can only contain [a-z]"]}"#,
        ),
        (json!({"cpu": {"web": 512}}), "ok"),
        (json!({"cpu": {"web": "512"}}), "ok"),
        (json!({"cpu": {"web": 1025}}), cpu),
        (json!({"cpu": {"web": -1}}), cpu),
        (json!({"tags": {"ssd": "true"}}), "ok"),
        (
            json!({"tags": {"s-d": "true"}}),
            r#"{"tags":["Tag keys can only contain [a-z]"]}"#,
        ),
        (
            json!({"tags": {"ssd": "a b"}}),
            r#"{"tags":["Invalid tag value"]}"#,
        ),
    ];
    for (body, want) in cases {
        assert_eq!(why(config(&fields(body.clone()))), want, "{body}");
    }
    let read = config(&fields(
        json!({"values": {"A": 1, "B": true, "C": null, "D": "é\r\n%n\"'"}}),
    ))
    .expect("config");
    let values: Vec<_> = read
        .values
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_deref()))
        .collect();
    assert_eq!(
        values,
        [
            ("A", Some("1")),
            ("B", Some("True")),
            ("C", None),
            ("D", Some("é\r\n%n\"'"))
        ]
    );
}

#[test]
fn values_that_the_host_would_act_on_are_refused() {
    let nul = config(&fields(json!({"values": {"A": "x\0y"}})));
    assert!(why(nul).contains("NUL byte"));
    let podman = config(&fields(json!({"values": {"LD_PRELOAD": "a\nb"}})));
    assert!(why(podman).contains("LD_PRELOAD can't have a value with line breaks"));
}

#[test]
fn scales() {
    let cases = [
        (json!({"web": 3}), "ok"),
        (json!({"web": "3", "worker": 0}), "ok"),
        (
            json!({"web": -1}),
            r#"{"detail":"Invalid scaling format: Must be greater than or equal to zero"}"#,
        ),
        (
            json!({"web": "x"}),
            r#"{"detail":"Invalid scaling format: web=\"x\""}"#,
        ),
        (
            json!({"web": 1.5}),
            r#"{"detail":"Invalid scaling format: web=1.5"}"#,
        ),
        (
            json!({"web": 4294967296u64}),
            r#"{"detail":"Invalid scaling format: at most 1000 processes of a type"}"#,
        ),
        (
            json!({"Web": 1}),
            r#"{"detail":"Container type Web does not exist in application"}"#,
        ),
    ];
    for (body, want) in cases {
        assert_eq!(why(scale(&fields(body.clone()))), want, "{body}");
    }
}

#[test]
fn rollbacks() {
    let below = r#"{"detail":"version cannot be below 0"}"#;
    let cases = [
        (json!({}), Ok(None)),
        (json!({"version": 2}), Ok(Some(2))),
        (json!({"version": "v2"}), Ok(Some(2))),
        (json!({"version": 0}), Err(below)),
        (json!({"version": -3}), Err(below)),
        (
            json!({"version": "two"}),
            Err(r#"{"version":["A valid integer is required."]}"#),
        ),
    ];
    for (body, want) in cases {
        let got = rollback(&fields(body.clone()))
            .map(|n| n.map(|n| n.0))
            .map_err(|e| e.body().to_string());
        assert_eq!(got, want.map_err(str::to_owned), "{body}");
    }
}

#[test]
fn domains() {
    let wrong = r#"{"domain":["Hostname does not look valid."]}"#;
    let long = r#"{"domain":["Hostname must be 255 characters or less."]}"#;
    let longest = format!("{}.x", "a.".repeat(130));
    let cases = [
        ("example.com", "ok"),
        ("Example.Com.", "ok"),
        ("domain", "ok"),
        ("xn--bcher-kva.example", "ok"),
        ("10.1.2.3.xip.io", "ok"),
        ("*.example.com", "ok"),
        ("*.Example.Com.", "ok"),
        ("*.com", wrong),
        ("*.", wrong),
        ("*", wrong),
        ("a.*.example.com", wrong),
        ("*.*.example.com", wrong),
        ("domain1", wrong),
        ("xip.io/..", wrong),
        (longest.as_str(), long),
        ("-a.example.com", wrong),
        ("a--b.example.com", wrong),
        ("10.0.0.1", wrong),
        ("a_b.example.com", wrong),
        ("a b.example.com", wrong),
        ("x'; echo", wrong),
    ];
    for (text, want) in cases {
        assert_eq!(
            why(domain(&fields(json!({"domain": text})))),
            want,
            "{text}"
        );
    }
    assert!(domain(&fields(json!({"domain": "a".repeat(64)}))).is_err());
}

#[test]
fn what_the_platform_keeps_for_itself() {
    for (name, want) in [
        ("apps.example.com", true),
        ("blog.apps.example.com", true),
        ("*.apps.example.com", true),
        ("*.example.com", true),
        ("a.blog.apps.example.com", false),
        ("*.blog.apps.example.com", false),
        ("myapps.example.com", false),
        ("example.com", false),
        ("www.example.com", false),
    ] {
        let name: DomainName = name.parse().expect("name");
        assert_eq!(is_platforms(&name, "apps.example.com"), want, "{name}");
    }
    let top: DomainName = "*.localhost".parse().expect("name");
    assert!(is_platforms(&top, "localhost"));
}

#[test]
fn certificates() {
    let name = |name: &str| json!({"certificate": "c", "key": "k", "common_name": name});
    let blank = r#"{"key":["This field may not be blank."]}"#;
    let long = r#"{"certificate":["Ensure this field has no more than 65536 characters."]}"#;
    let missing = r#"{"certificate":["This field is required."]}"#;
    let wrong = r#"{"common_name":["Hostname does not look valid."]}"#;
    for (body, want) in [
        (json!({"certificate": "c", "key": "k"}), "ok"),
        (name(""), "ok"),
        (name("*.Example.com."), "ok"),
        (name("a b"), wrong),
        (json!({"key": "k"}), missing),
        (json!({"certificate": "c", "key": ""}), blank),
        (json!({"certificate": "c".repeat(65537), "key": "k"}), long),
    ] {
        assert_eq!(why(cert(&fields(body.clone())).map(drop)), want, "{body}");
    }
    let fields = fields(name("*.Example.com."));
    let request = cert(&fields).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(request.common_name.expect("name").as_str(), "*.example.com");
}

#[test]
fn whitelists() {
    let set = |text: &str| {
        let body = json!({"values": {"DEIS_WHITELIST": text}});
        config(&fields(body)).map(drop).map_err(|e| e.to_string())
    };
    assert_eq!(set("10.0.0.0/8:vpn,192.0.2.1:office"), Ok(()));
    let error = set("10.0.0.0/8:vpn,office").expect_err("no address");
    assert!(
        error.starts_with("values: DEIS_WHITELIST: \"office\" is neither"),
        "{error}"
    );
    let gone = json!({"values": {"DEIS_WHITELIST": null}});
    assert!(config(&fields(gone)).is_ok());
}

#[test]
fn registrations() {
    let blank = r#"{"password":["This field may not be blank."]}"#;
    let cases = [
        (
            json!({"username": "ada", "password": "x", "email": "a@b"}),
            "ok",
        ),
        (json!({"username": "ada", "password": "x"}), "ok"),
        (json!({"username": "ada", "password": ""}), blank),
        (
            json!({"password": "x"}),
            r#"{"username":["This field is required."]}"#,
        ),
        (
            json!({"username": "ada", "password": "x", "email": "b"}),
            r#"{"email":["Enter a valid email address."]}"#,
        ),
        (
            json!({"username": "a/b", "password": "x"}),
            r#"{"username":["Enter a valid username. This value may contain only letters, numbers and @/./+/-/_ characters."]}"#,
        ),
        (
            json!({"username": "a".repeat(31), "password": "x"}),
            r#"{"username":["Ensure this field has no more than 30 characters."]}"#,
        ),
    ];
    for (body, want) in cases {
        assert_eq!(why(registration(&fields(body.clone()))), want, "{body}");
    }
}

fn at(text: &str) -> Timestamp {
    text.parse().expect("time")
}

#[test]
fn tokens() {
    let now = at("2026-11-23T00:00:00Z");
    let apps = r#"{"apps":["Name 1 to 100 apps, or leave the field out for all."]}"#;
    let write = r#"{"expires":["Write it as 90d, 12h or 30m, or as 2027-01-31T00:00:00Z."]}"#;
    let past = r#"{"expires":["That is not in the future."]}"#;
    let far = r#"{"expires":["At most 3660d."]}"#;
    let cases = [
        (json!({"name": "ci", "scope": "deploy"}), "ok"),
        (
            json!({"name": "ci", "scope": "all", "apps": ["blog"], "expires": "90d"}),
            "ok",
        ),
        (
            json!({"name": "ci", "scope": "all", "apps": null, "expires": null}),
            "ok",
        ),
        (
            json!({"name": "ci", "scope": "read", "expires": "2027-01-31T00:00:00Z"}),
            "ok",
        ),
        (
            json!({"scope": "read"}),
            r#"{"name":["This field is required."]}"#,
        ),
        (
            json!({"name": "ci"}),
            r#"{"scope":["This field is required."]}"#,
        ),
        (
            json!({"name": "ci", "scope": "ALL"}),
            r#"{"scope":["Must be all, deploy or read."]}"#,
        ),
        (
            json!({"name": "current", "scope": "all"}),
            r#"{"name":["current is a reserved name."]}"#,
        ),
        (json!({"name": "ci", "scope": "all", "apps": []}), apps),
        (
            json!({"name": "ci", "scope": "all", "apps": "blog"}),
            r#"{"apps":["Expected a list of apps."]}"#,
        ),
        (
            json!({"name": "ci", "scope": "all", "apps": ["../x"]}),
            r#"{"apps":["\"../x\" is no app's name."]}"#,
        ),
        (
            json!({"name": "ci", "scope": "all", "apps": [7]}),
            r#"{"apps":["7 is no app's name."]}"#,
        ),
        (
            json!({"name": "ci", "scope": "all", "expires": "soon"}),
            write,
        ),
        (json!({"name": "ci", "scope": "all", "expires": "d"}), write),
        (
            json!({"name": "ci", "scope": "all", "expires": "-1d"}),
            write,
        ),
        (
            json!({"name": "ci", "scope": "all", "expires": "1.5h"}),
            write,
        ),
        (json!({"name": "ci", "scope": "all", "expires": "0d"}), past),
        (
            json!({"name": "ci", "scope": "all", "expires": "2026-11-23T00:00:00Z"}),
            past,
        ),
        (
            json!({"name": "ci", "scope": "all", "expires": "3661d"}),
            far,
        ),
        (
            json!({"name": "ci", "scope": "all", "expires": "99999999999999999999d"}),
            far,
        ),
        (
            json!({"name": "ci", "scope": "all", "expires": "9999-12-30T00:00:00Z"}),
            far,
        ),
    ];
    for (body, want) in cases {
        assert_eq!(why(token(&fields(body.clone()), now)), want, "{body}");
    }
    assert!(token(&fields(json!({"name": "a b", "scope": "all"})), now).is_err());
    for (text, want) in [
        ("90d", "2027-02-21T00:00:00Z"),
        ("12h", "2026-11-23T12:00:00Z"),
        ("30m", "2026-11-23T00:30:00Z"),
        ("2027-01-31T01:00:00+01:00", "2027-01-31T00:00:00Z"),
    ] {
        assert_eq!(expiry(text, now), Ok(at(want)), "{text}");
    }
}

/// What `ask` says that requests carry is what `valid` reads.
#[test]
fn requests_as_documented_are_read() {
    fn body(request: impl serde::Serialize) -> Fields {
        fields(serde_json::to_value(request).expect("JSON"))
    }
    let text = str::to_owned;
    let now = at("2026-11-23T00:00:00Z");
    let read = registration(&body(ask::Register {
        username: text("ada"),
        password: text("secret"),
        email: text("a@b.c"),
        first_name: text("Ada"),
        last_name: text("Lovelace"),
    }));
    let read = read.expect("read");
    assert_eq!(
        (read.username.as_str(), &*read.password, &*read.email),
        ("ada", "secret", "a@b.c")
    );
    assert_eq!((&*read.first_name, &*read.last_name), ("Ada", "Lovelace"));
    let login = ask::Login {
        username: text("ada"),
        password: text("secret"),
    };
    assert_eq!(credentials(&body(login)), Ok((text("ada"), text("secret"))));
    let passwd = body(ask::Password {
        username: Some(text("bob")),
        password: Some(text("old")),
        new_password: text("new"),
    });
    assert_eq!(other_user(&passwd), Ok(Some("bob".parse().expect("name"))));
    assert_eq!(old_password(&passwd), Ok(Some("old")));
    assert_eq!(new_password(&passwd, "new_password"), Ok(text("new")));
    let regenerate = ask::Regenerate {
        username: Some(text("bob")),
        all: false,
    };
    assert!(other_user(&body(regenerate)).expect("read").is_some());
    let read = token(
        &body(ask::NewToken {
            name: text("ci"),
            scope: text("deploy"),
            apps: Some(vec![text("blog")]),
            expires: Some(text("1h")),
        }),
        now,
    );
    let read = read.expect("read");
    assert!(read.apps.is_some() && read.expires.is_some());
    let name = ask::Username {
        username: text("ada"),
    };
    assert!(user(&body(name)).is_ok());
    let app = ask::App {
        id: Some(text("blog")),
    };
    assert!(app_id(&body(app)).expect("read").is_some());
    let transfer = ask::Transfer { owner: text("bob") };
    assert!(new_owner(&body(transfer)).expect("read").is_some());
    let one = |name: &str, value: &str| BTreeMap::from([(text(name), Some(text(value)))]);
    let read = config(&body(ask::Config {
        values: one("A", "1"),
        memory: one("web", "1G"),
        cpu: BTreeMap::from([(text("web"), Some(512))]),
        tags: BTreeMap::from([(text("ssd"), None)]),
    }));
    let read = read.expect("read");
    assert_eq!(
        (
            read.values.len(),
            read.memory.len(),
            read.cpu.len(),
            read.tags.len()
        ),
        (1, 1, 1, 1)
    );
    let back = ask::Rollback { version: Some(2) };
    assert_eq!(rollback(&body(back)), Ok(Some(ReleaseNumber(2))));
    let counts = ask::Scale(BTreeMap::from([(text("web"), 3)]));
    assert_eq!(scale(&body(counts)).expect("read").len(), 1);
    let run = ask::Run {
        detach: Some(false),
        command: text("true"),
    };
    assert_eq!(command(&body(run)), Ok(text("true")));
    let name = ask::Domain {
        domain: text("x.example.org"),
    };
    assert!(domain(&body(name)).is_ok());
    let public = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGYih2RCKaV3pu5Kn45gQgMI8w8q6m9agpWVrxAEYPFI";
    let read = key(&body(ask::Key {
        id: text("laptop"),
        public: text(public),
    }));
    assert!(read.is_ok());
}

proptest! {
    /// No text makes the parser panic; what it takes is in the future and within its bound.
    #[test]
    fn expiries(text in "\\PC{0,30}|[0-9]{1,25}[dhm]", now in -1_000_000_000i64..4_000_000_000) {
        let now = Timestamp::from_second(now).expect("time");
        if let Ok(end) = expiry(&text, now) {
            prop_assert!(end > now);
            prop_assert!(now.duration_until(end).as_hours() <= 24 * 3660);
        }
    }

    #[test]
    fn lives_are_what_they_say(days in 1..3660i64, now in 0i64..4_000_000_000) {
        let now = Timestamp::from_second(now).expect("time");
        let end = expiry(&format!("{days}d"), now).expect("read");
        prop_assert_eq!(now.duration_until(end).as_hours(), days * 24);
        prop_assert_eq!(expiry(&format!("{}m", days * 24 * 60), now), Ok(end));
        prop_assert_eq!(expiry(&end.to_string(), now), Ok(end));
    }
}
