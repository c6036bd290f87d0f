//! `deisd`: the daemon of every host; each role is a subcommand.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, Subcommand};
use deis::{settings::HostSettings, store::Store, telemetry};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The daemon of every host.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Takes, keeps and serves the apps' logs.
    Logger(Host),
    /// HTTP(S) and TCP ingress: routes requests to apps, controllers and builders.
    Router(Host),
}

#[derive(clap::Args)]
struct Host {
    /// The host's settings.
    #[arg(long, default_value = deis::settings::DEFAULT_PATH)]
    settings: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    telemetry::init();
    let stop = stop_on_signal()?;
    match arguments.role {
        Role::Logger(host) => {
            let (settings, store) = connect(host).await?;
            deis::logger::run(settings, store, stop).await?;
        }
        Role::Router(host) => {
            let (settings, store) = connect(host).await?;
            deis::router::run(settings, store, stop).await?;
        }
    }
    Ok(())
}

async fn connect(host: Host) -> anyhow::Result<(HostSettings, Store)> {
    let settings = HostSettings::load(&host.settings)?;
    let store = Store::connect(settings.etcd.clone())
        .await
        .context("can't set up the connection to etcd")?;
    Ok((settings, store))
}

/// Cancelled by SIGTERM or SIGINT.
fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("can't watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("can't watch for SIGINT")?;
    let cancelled = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        cancelled.cancel();
    });
    Ok(stop)
}
