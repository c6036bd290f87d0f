//! Requests and refusals, in tables.

use serde_json::{Value, json};

use super::valid::*;
use crate::model::DomainName;

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
