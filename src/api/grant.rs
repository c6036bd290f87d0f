//! What a token may be used for. Pure: one rule for every route, told by the table of routes
//! (`controller::routes::table`) what the route needs.
//!
//! A scope and a set of apps only take away: whatever a token allows, its user must be allowed
//! besides. What touches accounts (tokens, keys, passwords, administrators) or takes something away
//! for good (transfer, destroy) needs a login, or a token that is good for everything.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::model::{AppName, Scope, Token};

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anybody; a token is not looked at.
    Open,
    /// Anybody; whoever shows a token must show a valid one of the widest scope.
    Optional,
    /// Whoever shows a token of this scope or a wider one.
    Token(Scope),
}

/// What one token allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// What it may be used for.
    pub scope: Scope,
    /// The only apps that it is for.
    pub apps: Option<BTreeSet<AppName>>,
    /// When it ends.
    pub expires: Option<Timestamp>,
}

/// Why a token does not allow something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Its time is over.
    #[error(
        "This token expired on {}; make a new one with 'deis tokens:create'.",
        .0.strftime("%Y-%m-%d at %H:%M:%S UTC")
    )]
    Expired(Timestamp),
    /// Its scope is too narrow.
    #[error("This token has the scope {has}; this needs {needs}.", has = .has.word(), needs = .needs.word())]
    Scope {
        /// What it has.
        has: Scope,
        /// What it would have to have.
        needs: Scope,
    },
    /// It is for other apps.
    #[error("This token is only for {}.", list(.0))]
    Apps(BTreeSet<AppName>),
}

fn list(apps: &BTreeSet<AppName>) -> String {
    let names: Vec<&str> = apps.iter().map(AppName::as_str).collect();
    match names.as_slice() {
        [] => "apps that are named in it, and it names none".to_owned(),
        [one] => format!("the app {one}"),
        many => format!("the apps {}", many.join(", ")),
    }
}

impl Scope {
    /// All scopes, the narrowest first.
    pub const EACH: [Self; 3] = [Self::Read, Self::Deploy, Self::All];

    /// How it is written.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Deploy => "deploy",
            Self::All => "all",
        }
    }

    /// Reads a scope.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::EACH.into_iter().find(|scope| scope.word() == word)
    }
}

impl From<&Token> for Grant {
    fn from(token: &Token) -> Self {
        Self {
            scope: token.scope,
            apps: token.apps.clone(),
            expires: token.expires,
        }
    }
}

impl Grant {
    /// Whether a request may go on: to a route that needs `needs`, about `app` where the route is
    /// about one.
    ///
    /// A token for some apps is of no use for what is about none, but for reading: lists show what
    /// it is for (see [`Grant::sees`]).
    ///
    /// # Errors
    /// Why not.
    pub fn permits(
        &self,
        needs: Scope,
        app: Option<&AppName>,
        now: Timestamp,
    ) -> Result<(), Denied> {
        if let Some(end) = self.expires.filter(|end| *end <= now) {
            return Err(Denied::Expired(end));
        }
        if self.scope < needs {
            let has = self.scope;
            return Err(Denied::Scope { has, needs });
        }
        match (&self.apps, app) {
            (None, _) => Ok(()),
            (Some(_), None) if needs == Scope::Read => Ok(()),
            (Some(apps), Some(app)) if apps.contains(app) => Ok(()),
            (Some(apps), _) => Err(Denied::Apps(apps.clone())),
        }
    }

    /// Whether an app is among those that it is for.
    #[must_use]
    pub fn sees(&self, app: &AppName) -> bool {
        self.apps.as_ref().is_none_or(|apps| apps.contains(app))
    }

    /// Whether all that `other` allows is allowed by this, too: only such tokens can be minted with
    /// it.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let apps = match (&self.apps, &other.apps) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(others)) => others.is_subset(own),
        };
        let time = match (self.expires, other.expires) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(others)) => others <= own,
        };
        other.scope <= self.scope && apps && time
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn app(name: &str) -> AppName {
        name.parse().expect("name")
    }

    fn time(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("time")
    }

    fn apps() -> impl Strategy<Value = Option<BTreeSet<AppName>>> {
        let some = prop::collection::btree_set(prop::sample::select(vec!["a", "b", "c"]), 0..3);
        prop::option::of(some.prop_map(|names| names.into_iter().map(app).collect()))
    }

    fn grants() -> impl Strategy<Value = Grant> {
        let scope = prop::sample::select(Scope::EACH.to_vec());
        let expires = prop::option::of((0..4i64).prop_map(time));
        (scope, apps(), expires).prop_map(|(scope, apps, expires)| Grant {
            scope,
            apps,
            expires,
        })
    }

    /// Everything that can be asked.
    fn requests() -> impl Iterator<Item = (Scope, Option<AppName>, Timestamp)> {
        Scope::EACH.into_iter().flat_map(|needs| {
            [None, Some("a"), Some("b"), Some("c"), Some("d")]
                .into_iter()
                .flat_map(move |name| (0..5).map(move |now| (needs, name.map(app), time(now))))
        })
    }

    proptest! {
        /// What is minted never allows more than what it was minted with, at any time.
        #[test]
        fn covered_is_never_wider(parent in grants(), child in grants()) {
            let wider = requests().any(|(needs, app, now)| {
                child.permits(needs, app.as_ref(), now).is_ok()
                    && parent.permits(needs, app.as_ref(), now).is_err()
            });
            prop_assert!(!(parent.covers(&child) && wider));
            prop_assert!(parent.covers(&parent));
        }

        /// A wider scope, more apps or a later end never take anything away.
        #[test]
        fn a_login_may_all_that_any_token_may(grant in grants()) {
            let login = Grant { scope: Scope::All, apps: None, expires: None };
            prop_assert!(login.covers(&grant));
            for (needs, app, now) in requests() {
                prop_assert!(login.permits(needs, app.as_ref(), now).is_ok());
            }
        }
    }

    #[test]
    fn refusals_say_why() {
        let grant = Grant {
            scope: Scope::Deploy,
            apps: Some(["blog", "shop"].map(app).into()),
            expires: Some(time(1_700_000_000)),
        };
        let (before, blog, wiki) = (time(0), app("blog"), app("wiki"));
        let ask = |needs, app, now| match grant.permits(needs, app, now) {
            Ok(()) => "ok".to_owned(),
            Err(denied) => denied.to_string(),
        };
        let apps = "This token is only for the apps blog, shop.";
        let cases = [
            (Scope::Deploy, Some(&blog), before, "ok"),
            (Scope::Read, None, before, "ok"),
            (Scope::Deploy, None, before, apps),
            (Scope::Read, Some(&wiki), before, apps),
            (
                Scope::All,
                Some(&blog),
                before,
                "This token has the scope deploy; this needs all.",
            ),
            (
                Scope::Read,
                Some(&blog),
                time(1_700_000_000),
                "This token expired on 2023-11-14 at 22:13:20 UTC; make a new one with \
                 'deis tokens:create'.",
            ),
        ];
        for (needs, app, now, want) in cases {
            assert_eq!(ask(needs, app, now), want, "{needs:?} {app:?}");
        }
    }
}
