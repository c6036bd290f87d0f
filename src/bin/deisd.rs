//! `deisd`, the daemon: each subcommand is a role, and a systemd unit from `units/`.
//!
//! A role gets its host's settings, the store, the cluster key if it has to open secrets, and a
//! token that is cancelled when systemd wants it to stop.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use deis::{
    agent,
    builder::{self, side::GitSide},
    controller,
    link::{self, Links},
    logger, registry,
    router::{self, keeper::Keeper},
    seal::ClusterKey,
    settings::{self, HostSettings},
    store::Store,
    telemetry,
};
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

/// The C library's allocator has no caches that threads have for themselves worth the name: it costs a
/// router a tenth of a request.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Longest time that abandoned threads (a blocking read, say) keep a finished role from ending.
const LINGER: Duration = Duration::from_secs(2);

/// The Deis daemon. systemd starts its roles; see units/.
#[derive(Debug, Parser)]
#[command(
    name = "deisd",
    version,
    arg_required_else_help = true,
    subcommand_required = true
)]
struct Cli {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// This host's assignments as systemd units; publishes and reports them
    Agent(Host),
    /// The HTTP API; the elected one of them also schedules and rolls out
    Controller(Host),
    /// Takes pushes: sshd, builds, images, releases
    Builder(Host),
    /// Receives, keeps and serves the logs of apps
    Logger(Host),
    /// Runs upstream's docker-registry, and says where it is while it answers
    Registry(Host),
    /// HTTP(S) to apps and the controller, TCP to builders; its table follows etcd
    Router(RouterArgs),
    /// What sshd and git start in the builder
    #[command(flatten)]
    Git(GitSide),
}

/// Where a role runs.
#[derive(Debug, Args)]
struct Host {
    /// The host's settings
    #[arg(long, value_name = "FILE", default_value = settings::DEFAULT_PATH)]
    settings: PathBuf,
}

/// How a router is run.
#[derive(Debug, Args)]
struct RouterArgs {
    #[command(flatten)]
    host: Host,
    /// Be the worker of the keeper that started this
    #[arg(long, hide = true)]
    serve: bool,
}

/// What every role is given.
struct Given {
    settings: HostSettings,
    store: Store,
    stop: CancellationToken,
}

impl Given {
    /// The key that opens the cluster's secrets; only for roles that have to.
    fn key(&self) -> anyhow::Result<ClusterKey> {
        Ok(ClusterKey::load(&self.settings.cluster_key)?)
    }
}

/// How many threads a role needs for its tasks.
#[derive(Debug, Clone, Copy)]
enum Threads {
    /// One for each processor, at most so many.
    UpTo(usize),
}

fn main() -> ExitCode {
    let result = match Cli::parse().role {
        Role::Agent(host) => serve(&host, Threads::UpTo(2), async |given| {
            Ok(agent::run(given.settings, given.store, given.stop).await?)
        }),
        Role::Controller(host) => serve(&host, Threads::UpTo(4), async |given| {
            let key = given.key()?;
            Ok(controller::run(given.settings, given.store, key, given.stop).await?)
        }),
        Role::Builder(host) => serve(&host, Threads::UpTo(4), async |given| {
            let key = given.key()?;
            Ok(builder::run(given.settings, given.store, key, given.stop).await?)
        }),
        Role::Logger(host) => serve(&host, Threads::UpTo(2), async |given| {
            Ok(logger::run(given.settings, given.store, given.stop).await?)
        }),
        Role::Registry(host) => serve(&host, Threads::UpTo(1), async |given| {
            Ok(registry::run(given.settings, given.store, given.stop).await?)
        }),
        Role::Router(args) if args.serve => route(&args.host),
        Role::Router(args) => keep_router(&args.host),
        Role::Git(side) => return side.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Holds a router's sockets, and has it run.
fn keep_router(host: &Host) -> anyhow::Result<()> {
    telemetry::init();
    let settings = HostSettings::load(&host.settings)?;
    Ok(router::keeper::keep(&settings, &host.settings)?)
}

/// Routes, on the sockets of the keeper.
fn route(host: &Host) -> anyhow::Result<()> {
    let keeper = Keeper::join().context("no keeper has sent sockets")?;
    serve(host, Threads::UpTo(2), async |given| {
        let key = given.key()?;
        Ok(router::run(given.settings, given.store, key, given.stop, keeper).await?)
    })
}

/// Runs a role until it ends; SIGTERM and SIGINT ask it to.
fn serve(
    host: &Host,
    threads: Threads,
    role: impl AsyncFnOnce(Given) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    telemetry::init();
    // TLS of etcd, routers and registries: the first provider that is installed serves all.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let settings = HostSettings::load(&host.settings)?;
    // Of a cluster that isn't local, settings without certificates are refused above.
    link::install(Links::new(settings.tls.as_ref())?);
    let runtime = match threads {
        Threads::UpTo(most) => {
            let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
            Builder::new_multi_thread()
                .worker_threads(cpus.min(most))
                .enable_all()
                .build()
        }
    };
    let runtime = runtime.context("can't start the runtime")?;
    let result = runtime.block_on(async {
        let stop = stop_on_signals()?;
        let store = Store::connect(settings.etcd.clone()).await?;
        let given = Given {
            settings,
            store,
            stop,
        };
        role(given).await
    });
    runtime.shutdown_timeout(LINGER);
    result
}

/// A token that the first SIGTERM or SIGINT cancels.
fn stop_on_signals() -> anyhow::Result<CancellationToken> {
    let mut term = signal(SignalKind::terminate()).context("can't wait for SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("can't wait for SIGINT")?;
    let stop = CancellationToken::new();
    let cancel = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        tracing::info!("asked to stop");
        cancel.cancel();
    });
    Ok(stop)
}
