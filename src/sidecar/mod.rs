//! `deis-sidecar`: the announcer and the log sidecar that stand beside each process.
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
pub mod backoff;
pub mod frame;
pub mod health;
pub mod journal;
pub mod log;
pub mod probe;
pub mod segments;
pub mod ship;
pub mod spool;
pub mod wait;
pub mod wire;

use std::process::ExitCode;

use args::Command;

/// The whole program: parses the arguments (without the program's own name) and runs.
pub fn main(args: impl IntoIterator<Item = String>) -> ExitCode {
    let result = match args::parse(args) {
        Ok(Command::Help) => {
            print!("{}", args::USAGE);
            return ExitCode::SUCCESS;
        }
        Ok(Command::Announce(options)) => announce::run(&options).map_err(|e| e.to_string()),
        Ok(Command::Log(options)) => log::run(&options).map_err(|e| describe(&e)),
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

/// An error with its causes on one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
