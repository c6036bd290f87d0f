//! The operators' program.

use clap::{Parser, Subcommand};

/// Deis for operators
#[derive(Debug, Parser)]
#[command(name = "deisctl", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make and drive a cluster of systemd hosts on this machine
    Cluster(deis::local::cli::ClusterArgs),
}

fn main() -> std::process::ExitCode {
    let Command::Cluster(args) = Cli::parse().command;
    match deis::local::cli::run(args) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("deisctl: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("  because {cause}");
            }
            std::process::ExitCode::FAILURE
        }
    }
}
