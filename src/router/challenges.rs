//! What is answered to certificate authorities that look for proof of a domain (RFC 8555, 8.3).

use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock},
};

use bytes::Bytes;

use crate::{
    model::{AcmeChallenge, ChallengeToken, Record},
    store::{Update, keys},
};

/// Below this path, whatever the host: the answer proves the account's key, not the domain.
const PATH: &str = "/.well-known/acme-challenge/";

/// The answers by their tokens; few, and for moments.
#[derive(Debug, Default)]
pub struct Challenges(RwLock<HashMap<ChallengeToken, Bytes>>);

impl Challenges {
    /// Applies what the feed tells. What can't be read is left out: it is one order's affair.
    pub fn update(&self, update: &Update) {
        let prefix = keys::acme_challenges();
        let mut answers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for change in &update.changes {
            let token = keys::last_part(&change.key, prefix.as_str());
            let Some(token) = token.and_then(|token| token.parse::<ChallengeToken>().ok()) else {
                continue;
            };
            let record = change.entry.as_ref();
            let record = record.and_then(|entry| AcmeChallenge::decode(&entry.value).ok());
            match record {
                Some(record) => answers.insert(token, record.answer.into()),
                None => answers.remove(&token),
            };
        }
    }

    /// The answer to a request for this path, if it is one of an authority that is waited for: all
    /// others are the app's.
    #[must_use]
    pub fn answer(&self, path: &str) -> Option<Bytes> {
        let token = path.strip_prefix(PATH)?;
        let answers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        answers.get(token).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::SCHEMA,
        store::{Change, Entry},
    };

    #[test]
    fn answers_come_and_go() {
        let challenges = Challenges::default();
        let change = |token: &str, answer: Option<&str>| Change {
            key: format!("{}{token}", keys::acme_challenges().as_str()),
            mod_revision: 7,
            entry: answer.map(|answer| Entry {
                value: AcmeChallenge {
                    schema: SCHEMA,
                    domain: "www.example.org".parse().expect("name"),
                    answer: answer.to_owned(),
                }
                .encode(),
                mod_revision: 7,
                create_revision: 7,
                lease: 0,
            }),
        };
        let update = |changes| Update {
            revision: 7,
            changes,
            first: false,
        };
        challenges.update(&update(vec![
            change("abc", Some("abc.print")),
            change("../../etc", Some("never")),
        ]));
        let said = |path: &str| challenges.answer(path);
        assert_eq!(
            said("/.well-known/acme-challenge/abc").as_deref(),
            Some(&b"abc.print"[..])
        );
        for other in [
            "/.well-known/acme-challenge/",
            "/.well-known/acme-challenge/abd",
            "/.well-known/acme-challenge/../../etc",
            "/abc",
            "",
        ] {
            assert_eq!(said(other), None, "{other}");
        }
        challenges.update(&update(vec![change("abc", None)]));
        assert_eq!(said("/.well-known/acme-challenge/abc"), None);
    }
}
