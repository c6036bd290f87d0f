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

fn main() -> anyhow::Result<()> {
    let Command::Cluster(args) = Cli::parse().command;
    deis::local::cli::run(args)
}
