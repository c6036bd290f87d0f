//! One-off processes (`deis run`): started once, whatever happens to this host; and how they ended,
//! for the host's report. Their output is none of the agent's business, see [`crate::session`].

use std::io;

use uuid::Uuid;

use super::paths::{Durability, Paths, write_atomic};
use crate::{model::ProcessName, render::RunFiles};

/// Exit code of a one-off whose end nobody saw.
const LOST: i32 = 255;

/// How a one-off ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Its exit code.
    pub exit_code: i32,
    /// What else there is to say.
    pub remark: Option<String>,
    /// Its last lines, if they tell why it failed and nobody else has them.
    pub log: Vec<String>,
}

/// Reads what the unit's ExecStopPost= wrote: `$EXIT_CODE $EXIT_STATUS $SERVICE_RESULT`.
#[must_use]
pub fn parse_end(text: &str) -> Option<End> {
    let mut words = text.split_whitespace();
    let (code, status, result) = (words.next()?, words.next()?, words.next()?);
    let exit_code = match code {
        "exited" => status.parse().ok()?,
        // systemd names signals: KILL, TERM, ...
        _ => 128 + signal_number(status),
    };
    let remark = (result == "oom-kill").then(|| "killed: out of memory".to_owned());
    Some(End {
        exit_code,
        remark,
        log: Vec::new(),
    })
}

fn signal_number(name: &str) -> i32 {
    match name.trim_start_matches("SIG") {
        "HUP" => 1,
        "INT" => 2,
        "QUIT" => 3,
        "ABRT" => 6,
        "SEGV" => 11,
        "PIPE" => 13,
        "TERM" => 15,
        _ => 9,
    }
}

/// How a one-off ended, as far as the host knows.
#[must_use]
pub fn end_of(paths: &Paths, name: &ProcessName) -> End {
    let read = std::fs::read_to_string(paths.at(&RunFiles::of(name).exit)).ok();
    read.and_then(|text| parse_end(&text))
        .unwrap_or_else(|| End {
            exit_code: LOST,
            remark: Some("the host went down while it ran; it was not started again".into()),
            log: Vec::new(),
        })
}

/// Marks a one-off as started, so that no reboot starts it twice. `false`: it was marked already.
///
/// # Errors
/// When the disk refuses; it must not be started then.
pub fn mark_started(paths: &Paths, uuid: Uuid) -> io::Result<bool> {
    let mark = paths.started_runs().join(uuid.to_string());
    if mark.exists() {
        return Ok(false);
    }
    write_atomic(&mark, b"", 0o600, Durability::Disk)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends() {
        let cases = [
            ("exited 0 success\n", 0, None),
            ("exited 3 exit-code\n", 3, None),
            ("killed TERM signal\n", 143, None),
            (
                "exited 137 oom-kill\n",
                137,
                Some("killed: out of memory".to_owned()),
            ),
        ];
        for (text, exit_code, remark) in cases {
            let end = End {
                exit_code,
                remark,
                log: Vec::new(),
            };
            assert_eq!(parse_end(text), Some(end), "{text}");
        }
        assert_eq!(parse_end(""), None);
    }

    #[test]
    fn nothing_starts_twice() {
        let dir = tempfile::tempdir().expect("dir");
        let paths = Paths::below(dir.path());
        paths.prepare().expect("folders");
        assert!(mark_started(&paths, Uuid::from_u128(1)).expect("marked"));
        assert!(!mark_started(&paths, Uuid::from_u128(1)).expect("marked"));
    }
}
