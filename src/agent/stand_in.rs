//! An agent on a host that isn't one: a folder stands for its file system, and whoever starts it brings
//! what stands for systemd and podman. What it does with etcd is all its own. The benches run a thousand
//! of them in one process.

use std::{net::IpAddr, path::PathBuf, sync::Arc};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    AgentError, host,
    keeper::Keeper,
    live,
    paths::Paths,
    records::RecordCache,
    steps::{Edges, Standing, Starts},
};
pub use super::{
    agent::Asker,
    runtime::{ImageError, Runtime},
    socket::Word,
};
use crate::{
    logger::tell::Teller,
    model::Machine,
    render::{HostFacts, TemplateSources, Templates},
    seal::ClusterKey,
    store::Store,
    systemd::Units,
};

/// What such a host is made of.
#[derive(Debug)]
pub struct Host<U, R> {
    /// Who it says that it is.
    pub machine: Machine,
    /// Its address.
    pub address: IpAddr,
    /// Below it lies what would be in /run and /var.
    pub root: PathBuf,
    /// In place of systemd.
    pub units: U,
    /// In place of podman.
    pub runtime: R,
    /// The cluster's key.
    pub key: ClusterKey,
    /// etcd, over a connection of its own or not.
    pub store: Store,
}

/// One life of its agent, until `stop`; `words` are its announcers', and `ready` is called when it has
/// adopted what runs.
///
/// # Errors
/// As [`super::run`].
pub async fn run<U: Units, R: Runtime>(
    place: Host<U, R>,
    words: mpsc::Receiver<Word>,
    ready: impl FnOnce(Asker),
    stop: CancellationToken,
) -> Result<(), AgentError> {
    let paths = Paths::below(&place.root);
    paths
        .prepare()
        .map_err(host("the stand-in's folders can't be made"))?;
    let templates = Templates::new(&TemplateSources::built_in()).map_err(AgentError::Templates)?;
    let edges = Arc::new(Edges {
        units: place.units,
        runtime: place.runtime,
        teller: Teller::start(place.store.clone()),
        store: place.store,
        key: place.key,
        templates,
        host: HostFacts {
            address: place.address,
            init: false,
        },
        paths,
        machine: place.machine.id.clone(),
        records: RecordCache::default(),
        starts: Starts::default(),
        keeper: Keeper::default(),
        standing: Standing::default(),
    });
    let ready = |_, asker| {
        ready(asker);
        Ok(())
    };
    live(edges, place.machine, words, ready, stop).await
}
