//! The JSON shapes of the API, the same for whoever writes and whoever reads them.

mod account;
mod app;
mod cert;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::{account::*, app::*, cert::*};

/// A list, page by page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "{T}Page")]
pub struct Page<T> {
    /// Number of results on all pages together.
    pub count: u64,
    /// URL of the next page.
    pub next: Option<String>,
    /// URL of the page before.
    pub previous: Option<String>,
    /// This page.
    pub results: Vec<T>,
}

/// Answer to a login.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
pub struct TokenReply {
    /// 40 hexadecimal digits; empty when all users' tokens were ended.
    pub token: String,
}

/// Answer to a rollback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RollbackReply {
    /// Number of the new release.
    pub version: u32,
}

/// Answer to `run`: `[exit code, "output"]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunReply(pub i32, pub String);

/// What a refused request is told: `detail`, `error` or a list of reasons per field.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Error")]
#[serde(default)]
pub struct Failure {
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Why, where v1 said it so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Names the request in the platform's logs, when it is the platform that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// What is wrong with which field.
    #[serde(flatten)]
    pub fields: BTreeMap<String, Vec<String>>,
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::{Value, json};

    use super::*;
    use crate::model;

    const UUID: &str = "de1bf5b5-4a72-4f94-a10c-d2a3741cdf75";

    /// The shapes are those of Deis 1.13 (docs/reference/api-v1.7.rst), not what we happen to write:
    /// a field more, less or of another type would break its client, which is typed.
    #[test]
    fn shapes() {
        fn same<T: Serialize + for<'de> Deserialize<'de>>(what: Value) {
            let read: T = serde_json::from_value(what.clone()).expect("readable");
            assert_eq!(serde_json::to_value(&read).expect("writable"), what);
        }
        let time = "2014-01-01T00:00:00UTC";
        same::<Page<App>>(json!({
            "count": 1, "next": null, "previous": null,
            "results": [{
                "created": time, "id": "example-go", "owner": "test", "structure": {"web": 2},
                "updated": time, "url": "example-go.example.com", "uuid": UUID,
            }],
        }));
        same::<Build>(json!({
            "app": "example-go", "created": time, "dockerfile": "true", "image": "example-go",
            "owner": "test", "procfile": {"web": "example-go"}, "sha": "060da68f",
            "updated": time, "uuid": UUID,
        }));
        same::<Config>(json!({
            "owner": "test", "app": "example-go", "values": {"PLATFORM": "deis"},
            "memory": {"web": "512M"}, "cpu": {"web": 512}, "tags": {"ssd": "true"},
            "created": time, "updated": time, "uuid": UUID,
        }));
        same::<Release>(json!({
            "app": "example-go", "build": null, "config": UUID, "created": time, "owner": "test",
            "summary": "test created", "updated": time, "uuid": UUID, "version": 1,
        }));
        same::<Container>(json!({
            "owner": "test", "app": "example-go", "release": "v2", "created": time,
            "updated": time, "uuid": UUID, "type": "web", "num": 1, "state": "up",
        }));
        same::<Domain>(json!({
            "app": "example-go", "created": time, "domain": "example.example.com",
            "owner": "test", "updated": time,
        }));
        same::<Cert>(json!({
            "id": 22, "owner": "test", "common_name": "www.example.com", "expires": time,
            "created": time, "updated": time,
        }));
        same::<Key>(json!({
            "created": time, "id": "test@example.com", "owner": "test", "public": "ssh-rsa AAAA",
            "fingerprint": "54:6d:da:1f:91:b5:2b:6f:a2:83:90:c4:f9:73:76:f5", "fingerprint_sha256": "SHA256:x",
            "updated": time, "uuid": UUID,
        }));
        same::<User>(json!({
            "email": "test@example.com", "username": "test", "first_name": "", "last_name": "",
            "is_superuser": true, "is_staff": true, "groups": [], "user_permissions": [],
            "last_login": "2014-10-19T22:01:00Z", "date_joined": "2014-10-19T22:01:00Z",
            "is_active": true,
        }));
        same::<RunReply>(json!([0, "hi\n"]));
        same::<RollbackReply>(json!({"version": 3}));
        same::<Perms>(json!({"users": ["test", "foo"]}));
        same::<Administrator>(json!({"username": "test", "is_superuser": true}));
        same::<TokenReply>(json!({"token": "abc123"}));
    }

    #[test]
    fn a_failed_release_says_so() {
        let release = model::Release {
            schema: 1,
            uuid: UUID.parse().expect("uuid"),
            app: "blog".parse().expect("app"),
            owner: "ada".parse().expect("user"),
            version: model::ReleaseNumber(3),
            summary: "ada added FOO".into(),
            config: UUID.parse().expect("uuid"),
            build: None,
            created: Timestamp::UNIX_EPOCH,
        };
        let outcome = model::Outcome {
            schema: 1,
            version: release.version,
            result: model::OutcomeResult::Failed,
            reason: Some("web.1 exits with 1".into()),
            log: vec![],
            receipt: None,
            finished: Timestamp::UNIX_EPOCH,
        };
        assert_eq!(Release::new(&release, None).summary, "ada added FOO");
        let listed = Release::new(&release, Some(&outcome));
        assert_eq!(
            (listed.failure, listed.summary.as_str()),
            (None, "ada added FOO (failed)")
        );
        let failed = Release::alone(&release, Some(&outcome));
        assert_eq!(failed.summary, "ada added FOO (failed)");
        let failure = failed.failure.expect("why");
        assert_eq!(failure.reason.as_deref(), Some("web.1 exits with 1"));
    }
}
