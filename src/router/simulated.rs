//! A router without its listeners, for the simulation: the table, what follows etcd, and the
//! acknowledgements are the daemon's own.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use tokio::{sync::watch, task::JoinSet};

pub(crate) use super::live::Choice;
use super::{
    Member, Registered, RouterOptions, certs::Certs, first_table, live, onward::Generation,
};
use crate::{plan::routes::Endpoint, seal::ClusterKey, store::Store};

/// A router that requests can be given to; gone at once when it is dropped.
pub(crate) struct Router {
    live: Arc<live::Live>,
    /// Whether it has a table and serves.
    serves: watch::Receiver<bool>,
    /// Keeps its life going.
    _life: JoinSet<()>,
}

/// Lets the routers of this thread choose as a seed says.
pub(crate) fn reseed(seed: u64) {
    live::reseed(seed);
}

impl Router {
    /// Begins as the daemon does: from etcd, or from `state` when etcd is away.
    pub(crate) fn start(ip: IpAddr, state: PathBuf, store: Store, key: ClusterKey) -> Self {
        let live = Arc::new(live::Live::new(1, Certs::new(key)));
        let (serving, serves) = watch::channel(false);
        let options = options(ip, state);
        let member = Member {
            store,
            live: Arc::clone(&live),
            ip,
            address: options.http,
            state: options.state.clone().into(),
        };
        let mut life = JoinSet::new();
        let own = Arc::clone(&live);
        life.spawn(async move {
            let mut tasks = JoinSet::new();
            let registered = Registered::new(None);
            first_table(member, &options, &own, &registered, &mut tasks).await;
            serving.send_replace(true);
            while tasks.join_next().await.is_some() {}
        });
        Self {
            live,
            serves,
            _life: life,
        }
    }

    /// Whether it answers requests.
    pub(crate) fn serves(&self) -> bool {
        *self.serves.borrow()
    }

    /// Whom a request for a host name is given to.
    pub(crate) fn choose(&self, host: &str) -> Choice {
        let caller = live::Caller {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            settings: &self.live.settings(),
            affinity: None,
            seen: Generation::default(),
        };
        self.live.choose(host, &caller, &[])
    }

    /// All that requests may be given to.
    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        self.live.endpoints()
    }
}

fn options(ip: IpAddr, state: PathBuf) -> RouterOptions {
    let at = |port| SocketAddr::new(ip, port);
    RouterOptions {
        ip,
        http: at(80),
        https: at(443),
        git: at(2222),
        health: at(9090),
        state,
        tls: PathBuf::new(),
        workers: 1,
        etcd_patience: super::ETCD_PATIENCE,
        drain: super::DRAIN,
    }
}
