//! `deisctl`, the operators' command line.

use std::process::ExitCode;

use clap::Parser;
use deis::cli::deisctl::{self, Cli, failure};

fn main() -> ExitCode {
    let cli = Cli::parse();
    // etcd and HTTPS need one, and the first to be asked decides; a second installation is no harm.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match deisctl::run(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("{}", failure::render(&error));
            ExitCode::from(failure::exit_code(&error))
        }
    }
}
