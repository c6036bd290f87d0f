//! Limits how often passwords may be guessed and accounts made: per user name and per client address.
//!
//! Each controller counts for itself, so that with three of them somebody has three times the tries;
//! that is still nothing for who guesses. A name counts failures only: whoever knows the password may
//! log in as often as he likes, until somebody else has used up the name's tries, and then has to wait
//! for one like everybody.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::extract::FromRequestParts;
use http::{HeaderMap, request::Parts};
use tokio::time::Instant;

use super::{
    State,
    error::ApiError,
    throttle::{Rate, Throttle},
};
use crate::{model::Username, store::keys};

/// Failed logins as one user.
const FAILED_LOGINS: Rate = Rate {
    burst: 10,
    every: Duration::from_secs(30),
};

/// Logins from one address, failed or not: each costs the controller a core for a while.
const LOGINS: Rate = Rate {
    burst: 60,
    every: Duration::from_secs(1),
};

/// Registrations of one name.
const SAME_REGISTRATIONS: Rate = Rate {
    burst: 10,
    every: Duration::from_secs(30),
};

/// Registrations from one address.
const REGISTRATIONS: Rate = Rate {
    burst: 60,
    every: Duration::from_secs(10),
};

/// Names, and addresses, that are remembered: about a megabyte in all.
const MOST: usize = 10_000;

/// The tries of everybody.
#[derive(Debug)]
pub(super) struct Attempts {
    start: Instant,
    buckets: Mutex<Buckets>,
}

#[derive(Debug)]
struct Buckets {
    failed_logins: Throttle<Username>,
    logins: Throttle<IpAddr>,
    same_registrations: Throttle<Username>,
    registrations: Throttle<IpAddr>,
}

impl Default for Attempts {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            buckets: Mutex::new(Buckets {
                failed_logins: Throttle::new(FAILED_LOGINS, MOST),
                logins: Throttle::new(LOGINS, MOST),
                same_registrations: Throttle::new(SAME_REGISTRATIONS, MOST),
                registrations: Throttle::new(REGISTRATIONS, MOST),
            }),
        }
    }
}

impl Attempts {
    fn buckets(&self) -> MutexGuard<'_, Buckets> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody logs in from an address.
    pub(super) fn login(&self, from: &ClientAddress) -> Result<(), ApiError> {
        let taken = self.buckets().logins.take(&from.0, self.start.elapsed());
        taken.map_err(|wait| too_many(format!("logins from {}", from.0), wait))
    }

    /// Somebody says a user's password. Counts until it is known to be right ([`Self::was_right`]), so
    /// that many at once are no more than one after the other.
    pub(super) fn password(&self, user: &Username) -> Result<(), ApiError> {
        let taken = self
            .buckets()
            .failed_logins
            .take(user, self.start.elapsed());
        taken.map_err(|wait| too_many(format!("wrong passwords for {user}"), wait))
    }

    /// The password was right.
    pub(super) fn was_right(&self, user: &Username) {
        self.buckets().failed_logins.give_back(user);
    }

    /// Somebody registers an account.
    pub(super) fn register(&self, name: &Username, from: &ClientAddress) -> Result<(), ApiError> {
        let now = self.start.elapsed();
        let mut buckets = self.buckets();
        let taken = buckets.registrations.take(&from.0, now);
        taken.map_err(|wait| too_many(format!("registrations from {}", from.0), wait))?;
        let taken = buckets.same_registrations.take(name, now);
        taken.map_err(|wait| too_many(format!("registrations of {name}"), wait))
    }
}

fn too_many(what: String, wait: Duration) -> ApiError {
    ApiError::TooMany { what, wait }
}

/// Who is at the other end of the connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) IpAddr);

/// Where a request comes from, as far as limits are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClientAddress(IpAddr);

impl ClientAddress {
    /// The peer itself; or when that is a router, whom it has seen: the last address of
    /// `X-Forwarded-For`, for those before it are what the client says.
    ///
    /// Whoever has an IPv6 address has a whole /64 of them: it counts as one.
    pub(super) fn new(peer: IpAddr, is_router: bool, headers: &HeaderMap) -> Self {
        let seen = headers
            .get_all("x-forwarded-for")
            .iter()
            .next_back()
            .and_then(|value| value.to_str().ok()?.rsplit(',').next()?.trim().parse().ok());
        let address: IpAddr = seen.filter(|_| is_router).unwrap_or(peer);
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => {
                let network = address.to_bits() & !u128::from(u64::MAX);
                Ipv6Addr::from_bits(network).into()
            }
        })
    }
}

impl FromRequestParts<State> for ClientAddress {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, ctl: &State) -> Result<Self, ApiError> {
        let Some(Peer(peer)) = parts.extensions.get().copied() else {
            let missing = std::io::Error::other("a connection without a peer");
            return Err(ApiError::internal(missing));
        };
        let peer = peer.to_canonical();
        let router = keys::router(&peer.to_string());
        let is_router = ctl.store.get(&router).await?.is_some();
        Ok(Self::new(peer, is_router, &parts.headers))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn address(peer: &str, is_router: bool, forwarded: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in forwarded {
            let value = HeaderValue::from_str(line).expect("value");
            headers.append("x-forwarded-for", value);
        }
        let peer = peer.parse().expect("address");
        ClientAddress::new(peer, is_router, &headers).0.to_string()
    }

    #[test]
    fn only_routers_are_believed() {
        let cases: &[(&str, bool, &[&str], &str)] = &[
            ("10.0.0.1", false, &[], "10.0.0.1"),
            ("10.0.0.1", false, &["1.2.3.4"], "10.0.0.1"),
            ("10.0.0.1", true, &[], "10.0.0.1"),
            ("10.0.0.1", true, &["1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1", true, &["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1", true, &["6.6.6.6", "1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1", true, &["1.2.3.4, nonsense"], "10.0.0.1"),
            ("::ffff:10.0.0.1", false, &[], "10.0.0.1"),
            ("2001:db8:1:2:3:4:5:6", false, &[], "2001:db8:1:2::"),
            (
                "10.0.0.1",
                true,
                &["2001:db8:1:2:ffff::1"],
                "2001:db8:1:2::",
            ),
        ];
        for (peer, is_router, forwarded, want) in cases {
            let got = address(peer, *is_router, forwarded);
            assert_eq!(got, *want, "{peer} {is_router} {forwarded:?}");
        }
    }

    proptest! {
        /// Nothing that a client writes into the header changes as whom a router's word counts it.
        #[test]
        fn what_a_client_says_is_nothing(said in "[ -~]{0,40}") {
            let through = format!("{said}, 1.2.3.4");
            prop_assert_eq!(address("10.0.0.1", true, &[&through]), "1.2.3.4");
            prop_assert_eq!(address("10.0.0.1", false, &[&said]), "10.0.0.1");
        }
    }
}
