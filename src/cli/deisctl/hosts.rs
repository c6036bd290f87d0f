//! `deisctl cordon`, `uncordon` and `drain`: what an operator wants of a host, written into its record.
//! The leader does the rest.

use std::{io::Write, time::Duration};

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{
    failure::{Failure, Kind},
    fleet::Fleet,
    subject,
};
use crate::{
    model::MachineId,
    ops::hosts::{self, HostsError},
    plan::{
        World, drain, preview,
        waiting::{Reason, Waiting},
    },
    store::{Store, keys},
};

/// Between two looks at what is left.
const LOOK: Duration = Duration::from_secs(1);
/// How long a drain is followed after its deadline: barriers, and processes that take their time to stop.
const AFTER_DEADLINE: Duration = Duration::from_secs(120);

pub(super) const DRAIN_HELP: &str = "\
Without a deadline nothing is stopped before its successor serves, however long that takes; one-off
processes are waited for. Units that no other host can take stay, and are named. After a deadline what is left is withdrawn from the routers and stopped.
Global units go last. `deisctl uncordon HOST` ends the drain.
Example: deisctl drain deis-02 --deadline 10m";

/// What a drain needs to know.
#[derive(Debug, Clone, Args)]
pub struct DrainArgs {
    /// Host: name, address or beginning of its id
    pub host: String,
    /// After that time, stop what has not moved: 90s, 10m, 2h
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub deadline: Option<Duration>,
    /// Wait until the host is empty (that is the default)
    #[arg(long, overrides_with = "no_wait")]
    pub wait: bool,
    /// Only say what is wanted; `deisctl machines` shows how far it is
    #[arg(long, overrides_with = "wait")]
    pub no_wait: bool,
    /// Seconds to wait; the drain goes on after that [default: 600, or until after the deadline]
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
}

/// `90s`, `10m`, `2h`, or seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        unit => return Err(format!("{unit:?} is no unit of time: use s, m or h")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("{text:?} is no time: use 90s, 10m or 2h"))?;
    // A month is enough for anybody, and can be added to any clock.
    let seconds = number.checked_mul(factor).filter(|all| *all <= 31 * 86_400);
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| format!("{text} is more than a month"))
}

/// Lets nothing new onto a host.
///
/// # Errors
/// When there is no such host, or etcd can't be reached.
pub async fn cordon(store: &Store, word: &str, out: &mut impl Write) -> anyhow::Result<()> {
    let id = find(store, word).await?;
    let host = hosts::cordon(store, &id).await;
    let host = host.map_err(|error| unchanged(word, error))?;
    writeln!(out, "{} is cordoned: it gets nothing new", host.hostname)?;
    Ok(())
}

/// Lets everything onto a host again.
///
/// # Errors
/// When there is no such host, or etcd can't be reached.
pub async fn uncordon(store: &Store, word: &str, out: &mut impl Write) -> anyhow::Result<()> {
    let id = find(store, word).await?;
    let host = hosts::uncordon(store, &id).await;
    let host = host.map_err(|error| unchanged(word, error))?;
    writeln!(out, "{} takes new processes", host.hostname)?;
    Ok(())
}

/// Has everything leave a host, and waits until it has.
///
/// # Errors
/// When there is no such host, etcd can't be reached, or the wait is over first.
pub async fn drain(store: &Store, args: &DrainArgs, out: &mut impl Write) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let deadline = args.deadline.map(SignedDuration::try_from).transpose()?;
    let deadline = deadline.map(|time| now.checked_add(time)).transpose()?;
    let id = find(store, &args.host).await?;
    let host = hosts::drain(store, &id, now, deadline).await;
    let host = host.map_err(|error| unchanged(&args.host, error))?;
    let until = deadline.map_or_else(
        || "until it is empty".to_owned(),
        |at| format!("until it is empty, at the latest at {at:.0}"),
    );
    writeln!(out, "{} is being drained, {until}", host.hostname)?;
    if args.no_wait {
        return Ok(());
    }
    let default = args
        .deadline
        .map_or(Duration::from_secs(600), |time| time + AFTER_DEADLINE);
    let limit = args.timeout.map_or(default, Duration::from_secs);
    follow(store, &id, &host.hostname, deadline.is_some(), limit, out).await
}

/// Says what is left on a host and why, whenever that changes, until nothing is.
async fn follow(
    store: &Store,
    id: &MachineId,
    hostname: &str,
    has_deadline: bool,
    limit: Duration,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let end = Instant::now() + limit;
    let mut feed = store.follow(keys::ROOT);
    let (mut world, mut said) = (World::default(), String::new());
    loop {
        let Ok(update) = timeout_at(end, feed.next()).await else {
            let message = format!(
                "{hostname} is not empty after {} s: {said}",
                limit.as_secs()
            );
            return Err(Failure::new(Kind::TimedOut, message)
                .hint(
                    "the drain goes on; `deisctl plan` says what waits, `deisctl uncordon` ends it",
                )
                .into());
        };
        world.apply(&update);
        while let Some(update) = feed.try_next() {
            world.apply(&update);
        }
        let left = drain::left(&world, id);
        if left.is_empty() {
            writeln!(out, "{hostname} is empty")?;
            return Ok(());
        }
        let ended = world
            .hosts()
            .get(id)
            .is_none_or(|host| host.drain().is_none());
        if ended {
            let message = format!("the drain of {hostname} was ended by somebody else");
            return Err(Failure::new(Kind::Conflict, message).into());
        }
        let waiting = preview::next_round(&world, Timestamp::now()).waiting;
        if !has_deadline && left.iter().all(|name| stays(name, &waiting)) {
            let stay = left.join(", ");
            writeln!(
                out,
                "{hostname} is empty but for what no other host can take: {stay}; \
                 `deisctl explain UNIT` says why"
            )?;
            return Ok(());
        }
        let of_host = waiting.iter().filter(|w| names(&w.to_string(), hostname));
        let lines: Vec<String> = of_host.map(|w| format!("\n  {w}")).collect();
        let now = format!("{} left{}", left.len(), lines.concat());
        if now != said {
            writeln!(out, "{now}")?;
            said = now;
        }
        sleep_until(end.min(Instant::now() + LOOK)).await;
    }
}

/// Whether a unit is left on the drained host for good, as things are: no other one can take it.
fn stays(unit: &str, waiting: &[Waiting]) -> bool {
    let is_stuck = |why: &Reason| matches!(why, Reason::Stays { why, .. } if matches!(**why, Reason::NoHost(_)));
    waiting.iter().any(|w| w.what == unit && is_stuck(&w.why))
}

/// Whether words name a host: `deis-1`, and not `deis-12`.
fn names(words: &str, hostname: &str) -> bool {
    let in_name = |c: char| c.is_ascii_alphanumeric() || c == '-';
    words.split(|c| !in_name(c)).any(|word| word == hostname)
        || (hostname.contains(|c| !in_name(c)) && words.contains(hostname))
}

/// The host that an operator names.
async fn find(store: &Store, word: &str) -> anyhow::Result<MachineId> {
    let found = subject::host(&Fleet::load(store).await?, word);
    found.map_err(|error| {
        let failure = Failure::new(Kind::NotFound, error);
        failure.hint("`deisctl machines` lists the hosts").into()
    })
}

/// Why its record was not changed, in the operator's words.
fn unchanged(word: &str, error: HostsError) -> anyhow::Error {
    let failure = match error {
        HostsError::Unknown(_) => {
            let message = format!("{word} has no record in /deis/hosts/ yet");
            Failure::new(Kind::NotFound, message)
                .hint("its agent writes one when it starts; try again")
        }
        HostsError::Contended(_) => {
            let message = format!("somebody else changes the record of {word} all the time");
            Failure::new(Kind::Conflict, message)
        }
        HostsError::Store(error) => {
            return anyhow::Error::new(error).context("nothing was changed");
        }
    };
    failure.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_named_whole() {
        for (words, host, want) in [
            ("web.1 on deis-1: starting", "deis-1", true),
            ("web.1 on deis-12: starting", "deis-1", false),
            ("it stays on a.example, which", "a.example", true),
        ] {
            assert_eq!(names(words, host), want, "{words}");
        }
    }

    #[test]
    fn times() {
        let cases = [
            ("90s", Some(90)),
            ("10m", Some(600)),
            ("2h", Some(7200)),
            ("45", Some(45)),
            ("", None),
            ("m", None),
            ("-1m", None),
            ("5d", None),
            ("99999h", None),
            ("18446744073709551615h", None),
        ];
        for (text, want) in cases {
            assert_eq!(duration(text).ok(), want.map(Duration::from_secs), "{text}");
        }
    }
}
