//! Where the seconds go between a host's death and the last process's publication: read from etcd's own
//! changes as they come, by way of the members that are left.

use std::{
    collections::BTreeSet,
    fmt,
    time::{Duration, Instant},
};

use deis::{
    model::{HostRecord, MachineId, Record as _},
    store::{Change, EtcdOptions, Feed, Store, keys},
};

use crate::{
    APP,
    cluster::{Cluster, Host},
    etcd,
};

/// What is followed, and for whom.
#[derive(Debug)]
pub struct Watcher {
    feed: Feed,
    begun: Instant,
    machine: MachineId,
    address: String,
    seen: Timeline,
}

/// Seconds after the kill; none for what hasn't happened.
#[derive(Debug, Default, Clone)]
pub struct Timeline {
    /// Its lease has run out.
    machine_gone: Option<Duration>,
    /// Somebody leads who didn't before.
    elected: Option<Duration>,
    /// The leader counts it as lost.
    lost: Option<Duration>,
    /// The first and the last process was assigned to another host.
    assigned: Option<(Duration, Duration)>,
    /// The first and the last process was published elsewhere.
    published: Option<(Duration, Duration)>,
    names: BTreeSet<String>,
}

impl Watcher {
    /// Follows etcd by way of the hosts that stay; returns once it sees all.
    pub async fn start(cluster: &Cluster, victim: &Host) -> Self {
        let others = cluster.hosts.iter().filter(|host| host.name != victim.name);
        let store = Store::connect(EtcdOptions {
            endpoints: others.map(etcd).collect(),
            tls: None,
        })
        .await
        .expect("a connection");
        let mut feed = store.follow(keys::ROOT);
        while !feed.next().await.first {}
        Self {
            feed,
            begun: Instant::now(),
            machine: victim.machine_id.parse().expect("an id"),
            address: format!("{}:", victim.address),
            seen: Timeline::default(),
        }
    }

    /// From now on it counts.
    pub fn begin(&mut self) {
        self.begun = Instant::now();
    }

    /// Follows changes for ever; what was seen is kept whenever this is dropped.
    pub async fn follow(&mut self) {
        loop {
            let update = self.feed.next().await;
            let at = self.begun.elapsed();
            for change in &update.changes {
                self.take(change, at);
            }
        }
    }

    fn take(&mut self, change: &Change, at: Duration) {
        let Change { key, entry, .. } = change;
        let seen = &mut self.seen;
        let until = |span: &mut Option<(Duration, Duration)>| {
            *span = Some((span.map_or(at, |(first, _)| first), at));
        };
        if *key == keys::machine(&self.machine).as_str() {
            if entry.is_none() {
                seen.machine_gone.get_or_insert(at);
            }
        } else if *key == keys::leader().as_str() {
            if entry
                .as_ref()
                .is_some_and(|e| e.create_revision == e.mod_revision)
            {
                seen.elected = Some(at);
            }
        } else if *key == keys::host(&self.machine).as_str() {
            let record = entry.as_ref().map(|entry| HostRecord::decode(&entry.value));
            if record.is_some_and(|r| r.is_ok_and(|record| record.lost_since.is_some())) {
                seen.lost.get_or_insert(at);
            }
        } else if let Some((machine, name)) = keys::parse_assignment(key) {
            let is_new = entry
                .as_ref()
                .is_some_and(|e| e.create_revision == e.mod_revision);
            if is_new && machine != self.machine && name.starts_with(APP) {
                until(&mut seen.assigned);
            }
        } else if let (Some(process), Some(entry)) = (keys::parse_service(key), entry)
            && process.app.to_string() == APP
            && !entry.value.starts_with(self.address.as_bytes())
            && seen.names.insert(process.to_string())
        {
            until(&mut seen.published);
        }
    }

    /// What was seen.
    pub fn end(self) -> Timeline {
        self.seen
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at =
            |at: Option<Duration>| at.map_or("-".into(), |at| format!("{:.1}", at.as_secs_f64()));
        let first = |span: Option<(Duration, Duration)>| at(span.map(|(first, _)| first));
        let last = |span: Option<(Duration, Duration)>| at(span.map(|(_, last)| last));
        write!(
            f,
            "lease gone {}, elected {}, lost {}, assigned {} to {}, published {} to {} s",
            at(self.machine_gone),
            at(self.elected),
            at(self.lost),
            first(self.assigned),
            last(self.assigned),
            first(self.published),
            last(self.published),
        )
    }
}
