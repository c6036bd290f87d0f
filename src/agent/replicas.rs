//! From which registry a host takes an image.
//!
//! A registry is named in etcd for some seconds after its host has died, and a connection to a dead
//! host may hang for minutes: podman gives none of it up by itself. So replicas that answer come first,
//! and one that stops answering while it is pulled from is given up.

use std::{net::SocketAddr, time::Duration};

use futures_util::future::join_all;
use tokio::time;
use tracing::warn;

use crate::link::links;

/// How long a registry may take to accept a connection.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// Between two looks at a registry from which an image comes.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks in vain after which it is given up.
const PATIENCE: u32 = 3;

/// Whether a registry accepts connections.
pub(super) async fn answers(registry: SocketAddr) -> bool {
    links().connect(registry, ANSWER_LIMIT).await.is_ok()
}

/// The registries in the order in which they are tried for `image`: different images begin with
/// different ones, so that no replica has all the work.
pub(super) fn in_turn(mut registries: Vec<SocketAddr>, image: &str) -> Vec<SocketAddr> {
    let sum = image
        .bytes()
        .fold(0_usize, |sum, byte| sum + usize::from(byte));
    let first = sum.checked_rem(registries.len()).unwrap_or_default();
    registries.rotate_left(first);
    registries
}

/// What the first registry gave that could give it, and which one that was; otherwise what the last one
/// said. None without a registry.
pub(super) async fn from_any<T, A, P>(
    registries: Vec<SocketAddr>,
    answers: impl Fn(SocketAddr) -> A,
    pull: impl Fn(SocketAddr) -> P,
) -> Option<Result<(SocketAddr, T), String>>
where
    A: Future<Output = bool>,
    P: Future<Output = Result<T, String>>,
{
    let looked = join_all(registries.iter().map(|registry| answers(*registry))).await;
    // Who doesn't answer may still do so a moment later: that one is the last resort.
    let (good, bad): (Vec<_>, Vec<_>) = registries.into_iter().zip(looked).partition(|(_, it)| *it);
    let mut last = None;
    for (registry, answered) in good.into_iter().chain(bad) {
        if !answered {
            warn!(%registry, "this registry doesn't answer, and is the last that is tried");
        }
        let result = tokio::select! {
            biased;
            result = pull(registry) => result,
            () = falls_silent(registry, &answers) => {
                Err(format!("{registry} does not answer any more"))
            }
        };
        match result {
            Ok(given) => return Some(Ok((registry, given))),
            Err(reason) => {
                warn!(%registry, reason, "an image did not come from this registry");
                last = Some(Err(reason));
            }
        }
    }
    last
}

/// Returns once a registry has not answered for a while.
async fn falls_silent<A: Future<Output = bool>>(
    registry: SocketAddr,
    answers: &impl Fn(SocketAddr) -> A,
) {
    let mut missed = 0;
    while missed < PATIENCE {
        time::sleep(LOOK_EVERY).await;
        missed = if answers(registry).await {
            0
        } else {
            missed + 1
        };
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, net::TcpListener};

    use tokio::time::Instant;

    use super::*;

    fn registry(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 5000))
    }

    /// As podman does with a host that is gone: it hangs.
    async fn pull(registry: SocketAddr, dead: SocketAddr) -> Result<&'static str, String> {
        if registry == dead {
            pending().await
        }
        Ok("image")
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_is_dead_costs_no_time() {
        let (begun, dead) = (Instant::now(), registry(1));
        let answers = |registry| async move { registry != dead };
        let pull = |registry| pull(registry, dead);
        let got = from_any(vec![dead, registry(2)], answers, pull).await;
        assert_eq!(got, Some(Ok((registry(2), "image"))));
        assert!(begun.elapsed().is_zero());
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_dies_meanwhile_is_given_up() {
        let (begun, dies) = (Instant::now(), registry(1));
        let at = begun + Duration::from_secs(2);
        let answers = |registry| async move { registry != dies || Instant::now() < at };
        let pull = |registry| pull(registry, dies);
        let got = from_any(vec![dies, registry(2)], answers, pull).await;
        assert_eq!(got, Some(Ok((registry(2), "image"))));
        assert!(begun.elapsed() < Duration::from_secs(6));
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_pull_is_left_alone_and_one_that_failed_is_tried_elsewhere() {
        let answers = |_| async { true };
        let long = |registry: SocketAddr| async move {
            time::sleep(Duration::from_secs(200)).await;
            if registry == self::registry(1) {
                Err("no such image".to_owned())
            } else {
                Ok("image")
            }
        };
        let got = from_any(vec![registry(1), registry(2)], answers, long).await;
        assert_eq!(got, Some(Ok((registry(2), "image"))));
        let got = from_any(vec![registry(1)], answers, long).await;
        assert_eq!(got, Some(Err("no such image".to_owned())));
        assert_eq!(from_any(vec![], answers, long).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_answer_is_tried_all_the_same() {
        let answers = |_| async { false };
        let pull = |registry| async move { Ok::<_, String>(registry) };
        let got = from_any(vec![registry(1)], answers, pull).await;
        assert_eq!(got, Some(Ok((registry(1), registry(1)))));
    }

    #[tokio::test]
    async fn whoever_accepts_connections_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        assert!(answers(address).await);
        drop(listener);
        assert!(!answers(address).await);
    }

    #[test]
    fn images_begin_with_different_registries() {
        let all = vec![registry(1), registry(2)];
        assert_eq!(in_turn(all.clone(), "a"), [registry(2), registry(1)]);
        assert_eq!(in_turn(all, "b"), [registry(1), registry(2)]);
        assert!(in_turn(vec![], "b").is_empty());
    }
}
