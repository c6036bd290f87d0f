//! What requests may say, as properties: parsers and validators never panic, and accept the language
//! of the reference (deis-v1.md, 3.6 and 4.6) and nothing else. The languages are spelt out here once
//! more, on purpose.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{ssh_key, time::WireTime, valid};

fn fields(value: Value) -> valid::Fields {
    match value {
        Value::Object(map) => map,
        _ => valid::Fields::new(),
    }
}

/// Texts that are nearly, or not at all, what is asked for.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-zA-Z0-9_.*% -]{0,12}",
        2 => "[a-z0-9.-]{1,40}",
        1 => "\\PC{0,40}",
        1 => any::<String>(),
    ]
}

/// Any JSON, with what the fields of requests are called in it.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        let name = prop_oneof![
            3 => prop::sample::select(vec![
                "id", "username", "password", "new_password", "email", "owner", "values", "memory",
                "cpu", "tags", "web", "version", "command", "public", "domain", "certificate", "key",
                "common_name", "name", "scope", "apps", "expires",
            ]).prop_map(str::to_owned),
            1 => text(),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name, inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// A process type, as `model::ProcessType` documents it.
fn is_type(text: &str) -> bool {
    (1..=31).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
}

/// `^[0-9]+(MB|KB|GB|[BKMG])$` without regard to case, and no more bytes than can be counted.
fn is_memory(text: &str) -> bool {
    let upper = text.to_ascii_uppercase();
    let digits = upper.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor: u128 = match &upper[digits.len()..] {
        "B" => 1,
        "K" | "KB" => 1 << 10,
        "M" | "MB" => 1 << 20,
        "G" | "GB" => 1 << 30,
        _ => return false,
    };
    let number = digits.bytes().all(|b| b.is_ascii_digit());
    let number = number.then(|| digits.parse::<u128>().ok()).flatten();
    number.is_some_and(|n| {
        n.checked_mul(factor)
            .is_some_and(|n| u64::try_from(n).is_ok())
    })
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// A domain: 4.6, with wildcards over at least two labels, and with the names that IDNA makes.
fn is_domain(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let text = text.strip_suffix('.').unwrap_or(&text);
    let (wildcard, rest) = match text.strip_prefix("*.") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let labels: Vec<&str> = rest.split('.').collect();
    if text.len() > 253 || !labels.iter().all(|label| is_label(label)) {
        return false;
    }
    if text.contains("xip.io") {
        return true;
    }
    let number = |label: &&str| label.bytes().all(|b| b.is_ascii_digit());
    let dashes = |label: &&str| label.contains("--") && !label.starts_with("xn--");
    let single = labels.len() == 1;
    let digits = rest.bytes().any(|b| b.is_ascii_digit());
    !(labels.iter().any(number) || labels.iter().any(dashes) || single && (wildcard || digits))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn nothing_panics(body in any_json(), text in any::<String>()) {
        let fields = fields(body);
        let now = Timestamp::UNIX_EPOCH;
        let _ = valid::registration(&fields);
        let _ = valid::credentials(&fields);
        let _ = valid::new_password(&fields, "new_password");
        let _ = valid::old_password(&fields);
        let _ = valid::other_user(&fields);
        let _ = valid::user(&fields);
        let _ = valid::new_owner(&fields);
        let _ = valid::app_id(&fields);
        let _ = valid::config(&fields);
        let _ = valid::scale(&fields);
        let _ = valid::rollback(&fields);
        let _ = valid::command(&fields);
        let _ = valid::key(&fields);
        let _ = valid::domain(&fields);
        let _ = valid::cert(&fields);
        let _ = valid::token(&fields, now);
        let _ = valid::expiry(&text, now);
        let _ = ssh_key::parse(&text);
        let _ = ssh_key::sha256(&text);
        let _ = serde_json::from_value::<WireTime>(Value::from(text));
    }

    /// A refusal can be read by v1's client: an object of texts and lists of texts.
    #[test]
    fn refusals_have_v1_s_form(body in any_json()) {
        let fields = fields(body);
        let refusals = [
            valid::registration(&fields).err(),
            valid::app_id(&fields).err(),
            valid::config(&fields).err(),
            valid::scale(&fields).err(),
            valid::rollback(&fields).err(),
            valid::key(&fields).err(),
            valid::domain(&fields).err(),
        ];
        for refusal in refusals.into_iter().flatten() {
            let Value::Object(body) = refusal.body() else {
                panic!("no object");
            };
            prop_assert_eq!(body.len(), 1);
            for why in body.values() {
                let texts = why.as_array().map(|list| list.iter().all(Value::is_string));
                prop_assert!(why.is_string() || texts == Some(true), "{}", why);
            }
        }
    }

    #[test]
    fn app_names(name in text()) {
        let allowed = is_label(&name) && name != "deis";
        let said = valid::app_id(&fields(json!({ "id": name })));
        // No name at all is a random one.
        prop_assert_eq!(said.is_ok(), allowed || name.is_empty());
        if let Ok(Some(parsed)) = said {
            prop_assert_eq!(parsed.as_str(), name);
        }
    }

    #[test]
    fn config_keys(name in text()) {
        let body = json!({ "values": { name.clone(): "x" } });
        let allowed = (1..=128).contains(&name.len())
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        prop_assert_eq!(valid::config(&fields(body)).is_ok(), allowed);
    }

    /// Values survive to the letter, whatever they are; only a NUL has no place in an environment.
    #[test]
    fn config_values(value in any::<String>()) {
        let said = valid::config(&fields(json!({ "values": { "A": value } })));
        prop_assert_eq!(said.is_ok(), !value.contains('\0'));
        if let Ok(said) = said {
            let values: Vec<_> = said.values.into_values().collect();
            prop_assert_eq!(values, [Some(value.clone())]);
        }
        // The same map as a text that holds JSON says the same.
        let text = json!({ "A": value }).to_string();
        let said = valid::config(&fields(json!({ "values": text })));
        prop_assert_eq!(said.is_ok(), !value.contains('\0'));
    }

    #[test]
    fn memory_limits(
        limit in prop_oneof!["[0-9]{1,25}([MmKkGg][Bb]?|[Bb])", "[0-9]{0,3}[a-zA-Z]{0,3}", text()],
        kind in prop_oneof!["[a-z]{1,8}", text()],
    ) {
        let body = json!({ "memory": { kind.clone(): limit } });
        let allowed = is_memory(&limit) && is_type(&kind);
        prop_assert_eq!(valid::config(&fields(body)).is_ok(), allowed, "{} {}", kind, limit);
    }

    #[test]
    fn cpu_shares(shares in -2000i64..3000, as_text in any::<bool>()) {
        let value = if as_text { Value::from(shares.to_string()) } else { Value::from(shares) };
        let said = valid::config(&fields(json!({ "cpu": { "web": value } })));
        prop_assert_eq!(said.is_ok(), (0..=1024).contains(&shares));
    }

    #[test]
    fn tags(key in text(), value in text()) {
        let word = |text: &str| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        let letters = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphabetic());
        let said = valid::config(&fields(json!({ "tags": { key.clone(): value.clone() } })));
        prop_assert_eq!(said.is_ok(), letters && word(&value), "{:?}={:?}", key, value);
    }

    /// Null takes away, whatever it is.
    #[test]
    fn null_deletes(name in "[A-Z_]{1,8}", kind in "[a-z]{1,8}", tag in "[a-z]{1,8}") {
        let body = json!({
            "values": { name: null }, "memory": { kind.clone(): null }, "cpu": { kind: null },
            "tags": { tag: null },
        });
        let said = valid::config(&fields(body)).expect("nulls");
        prop_assert!(said.values.values().all(Option::is_none));
        prop_assert!(said.memory.values().all(Option::is_none));
        prop_assert!(said.cpu.values().all(Option::is_none));
        prop_assert!(said.tags.values().all(Option::is_none));
    }

    #[test]
    fn structures(kind in prop_oneof!["[a-z]{1,8}", text()], count in -5i64..2000) {
        let said = valid::scale(&fields(json!({ kind.clone(): count })));
        let most = i64::from(valid::MAX_PROCESSES);
        prop_assert_eq!(said.is_ok(), is_type(&kind) && (0..=most).contains(&count));
        let as_text = valid::scale(&fields(json!({ kind: count.to_string() })));
        prop_assert_eq!(said, as_text);
    }

    #[test]
    fn rollbacks(number in any::<i64>()) {
        let said = valid::rollback(&fields(json!({ "version": number })));
        let allowed = number > 0 && u32::try_from(number).is_ok();
        prop_assert_eq!(said.is_ok(), allowed);
        prop_assert_eq!(&said, &valid::rollback(&fields(json!({ "version": number.to_string() }))));
        prop_assert_eq!(said, valid::rollback(&fields(json!({ "version": format!("v{number}") }))));
    }

    #[test]
    fn domains(
        name in prop_oneof![
            4 => "(\\*\\.)?([a-z0-9-]{1,5}\\.){0,3}[a-z0-9-]{1,5}\\.?",
            1 => "(xn--)?[a-zA-Z0-9-]{1,65}\\.(xip\\.io|example\\.org)",
            1 => "([0-9]{1,3}\\.){3,4}(xip\\.io)?",
            1 => "([a-z]{30}\\.){7,9}org",
            1 => text(),
        ],
    ) {
        let said = valid::domain(&fields(json!({ "domain": name })));
        prop_assert_eq!(said.is_ok(), is_domain(&name), "{:?}", name);
        if let Ok(parsed) = said {
            // Once parsed, it is what it is.
            let again = valid::domain(&fields(json!({ "domain": parsed.as_str() })));
            prop_assert_eq!(again, Ok(parsed));
        }
    }

    /// Keys: the data must say what the first word says, and what is accepted is one line that sshd
    /// reads as the same key.
    #[test]
    fn ssh_keys(
        kind in prop::sample::select(vec!["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ssh-dss"]),
        inner in prop::sample::select(vec!["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256"]),
        rest in prop::collection::vec(any::<u8>(), 0..80),
        comment in "[ -~]{0,30}",
    ) {
        let mut data = u32::try_from(inner.len()).expect("short").to_be_bytes().to_vec();
        data.extend_from_slice(inner.as_bytes());
        data.extend_from_slice(&u32::try_from(rest.len()).expect("short").to_be_bytes());
        data.extend_from_slice(&rest);
        let line = format!("{kind} {} {comment}", STANDARD.encode(&data));
        let said = ssh_key::parse(&line);
        if kind != inner || kind == "ssh-dss" {
            prop_assert!(said.is_err());
        }
        if let Ok(key) = said {
            let start = format!("{kind} {}", STANDARD.encode(&data));
            prop_assert!(key.line.starts_with(&start), "{}", key.line);
            prop_assert!(!key.line.contains(['\n', '\r']));
            prop_assert_eq!(ssh_key::parse(&key.line), Ok(key));
        }
        // Cut off anywhere in the data, it is none.
        let cut = STANDARD.encode(&data[..data.len().saturating_sub(rest.len() + 1)]);
        let cut = format!("{kind} {}", cut);
        prop_assert!(ssh_key::parse(&cut).is_err());
    }

    /// A second is a second, in v1's form, which is 23 characters in any year of four digits.
    #[test]
    fn times(second in 0i64..253_402_300_799) {
        let time = WireTime(Timestamp::from_second(second).expect("a second"));
        let text = time.to_string();
        prop_assert_eq!(text.len(), "2014-01-01T00:00:00UTC".len());
        prop_assert!(text.ends_with("UTC"));
        let json = serde_json::to_string(&time).expect("JSON");
        prop_assert_eq!(serde_json::from_str::<WireTime>(&json).expect("time"), time);
    }
}
