//! `deis-sidecar`: the announcer and the log sidecar that stand beside each process, and the one that
//! runs a one-off process ([`run`]). One per host is the [`fence`] of processes of single types.
//!
//! ```text
//!  app --stdout--> FIFO (systemd holds it) --splice--> spool on tmpfs --agent.sock--> logger
//!                                                        \--copy--> journal
//!  announcer --probe--> app's port          announcer --agent.sock--> agent
//! ```
//!
//! Both are single-threaded loops around poll(2) that own little memory and keep no state that a
//! `kill -9` could lose: [`health`], [`segments`], [`frame`] and [`wire`] decide and are pure;
//! [`probe`], [`announce`], [`spool`], [`ship`], [`journal`] and [`log`] carry out.

pub mod announce;
pub mod args;
pub mod fence;
pub mod frame;
pub mod health;
pub mod journal;
pub mod log;
pub mod probe;
pub mod run;
pub mod segments;
pub mod ship;
pub mod spool;
pub mod wait;
pub mod wire;

use std::{process::ExitCode, time::Duration};

use crate::{backoff::Backoff, telemetry::chain};
use args::Command;

/// The whole program: parses the arguments (without the program's own name) and runs.
pub fn main(args: impl IntoIterator<Item = String>) -> ExitCode {
    let result = match args::parse(args) {
        Ok(Command::Help) => {
            print!("{}", args::USAGE);
            return ExitCode::SUCCESS;
        }
        Ok(Command::Run(options)) => match run::run(&options) {
            // The unit ends as its process did.
            Ok(code) => return ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
            Err(error) => Err(chain(&error)),
        },
        Ok(Command::Announce(options)) => announce::run(&options).map_err(|e| e.to_string()),
        Ok(Command::Fence(options)) => fence::run(&options).map_err(|e| e.to_string()),
        Ok(Command::Log(options)) => log::run(&options).map_err(|e| chain(&e)),
        Err(problem) => {
            eprintln!("deis-sidecar: {problem}\n\n{}", args::USAGE);
            return ExitCode::from(64);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("deis-sidecar: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// The waits between tries to reach the agent: a restarted one is found soon, and a host full of
/// sidecars doesn't keep a missing one busy.
const fn retries() -> Backoff {
    Backoff::new(Duration::from_millis(100), Duration::from_secs(5))
}
