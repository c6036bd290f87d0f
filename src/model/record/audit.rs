//! The audit trail: who changed what.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::schema;
use crate::model::{AppName, ReleaseNumber, Username};

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// An app was created.
    Create,
    /// An app was given to another owner.
    Transfer,
    /// An app was destroyed.
    Destroy,
    /// Config variables, limits or tags were changed.
    Config,
    /// A build was deployed: a push, or an image by name.
    Deploy,
    /// An app went back to an earlier release.
    Rollback,
    /// The wanted number of processes was changed.
    Scale,
    /// Processes were replaced.
    Restart,
    /// Types were marked as single, or as others.
    Single,
    /// It was taken out of service, or back into it.
    Maintenance,
    /// How new releases are watched was changed.
    Policy,
    /// A one-off process was started.
    Run,
    /// A domain was added.
    DomainAdd,
    /// A domain was removed.
    DomainRemove,
    /// Somebody was let in.
    PermsGrant,
    /// Somebody was locked out.
    PermsRevoke,
    /// A certificate was added, or attached to a domain.
    CertAdd,
    /// A certificate was removed, or detached from a domain.
    CertRemove,
    /// An account was registered.
    Register,
    /// An account was deleted.
    Cancel,
    /// A password was changed.
    Password,
    /// Tokens were ended, and a new one minted.
    Regenerate,
    /// A token was minted.
    TokenCreate,
    /// A token was ended.
    TokenRevoke,
    /// An SSH key was added.
    KeyAdd,
    /// An SSH key was removed.
    KeyRemove,
    /// A user became an administrator.
    AdminGrant,
    /// A user is no administrator any more.
    AdminRevoke,
    /// A unit of an operator was changed.
    Unit,
    /// Hosts' labels were changed.
    Machine,
    /// Something that only a newer program knows.
    #[serde(other)]
    Other,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// `/deis/apps/<app>/audit/<id>` and `/deis/audit/<id>`: one thing that somebody did. Immutable;
/// the oldest go when there are too many. Never holds a value, a password, a token or a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub user: Username,
    /// By which token: its name, or its id for a login. For a push, `key` and the SSH key's fingerprint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// In which request, as in the logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// What was done.
    pub action: Action,
    /// The app that it was done to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppName>,
    /// The release that came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseNumber>,
    /// To what, and how: in words, names only.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_newer_program_wrote_can_be_read() {
        let newer = r#"{"at":"2026-01-02T03:04:05Z","user":"ada","action":"teleport","where":"x"}"#;
        let audit: Audit = serde_json::from_str(newer).expect("a newer record");
        assert_eq!(audit.action, Action::Other);
        assert_eq!(
            serde_json::to_string(&Action::DomainAdd).expect("text"),
            r#""domain-add""#
        );
        assert_eq!(Action::DomainAdd.to_string(), "domain-add");
    }
}
