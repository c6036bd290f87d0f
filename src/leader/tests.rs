//! The loop against the store in memory, on paused time: what is waited for is a condition.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::*;
use crate::{
    model::*,
    store::{EtcdOptions, Faults, MemoryStore, Txn},
};

fn settings(last: u8) -> HostSettings {
    HostSettings {
        cluster: "test".into(),
        local: true,
        address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)),
        etcd: EtcdOptions::default(),
        metadata: Default::default(),
        cluster_key: "/nonexistent".into(),
        tls: None,
    }
}

struct Controller {
    stop: CancellationToken,
    task: JoinHandle<Result<(), LeaderError>>,
}

fn controller(store: &Store, last: u8) -> Controller {
    let stop = CancellationToken::new();
    let task = tokio::spawn(run(
        settings(last),
        store.clone(),
        Arc::default(),
        stop.clone(),
    ));
    Controller { stop, task }
}

/// Waits until what lies under a prefix satisfies the condition.
async fn until<T: Record>(
    store: &Store,
    prefix: &crate::store::Prefix<T>,
    condition: impl Fn(&[(String, T)]) -> bool,
) -> Vec<(String, T)> {
    let mut feed = store.follow(prefix.as_str());
    let wait = async {
        loop {
            feed.next().await;
            let all = store.list(prefix).await.expect("a listing").entries;
            let all: Vec<(String, T)> = all.into_iter().map(|(k, v)| (k, v.value)).collect();
            if condition(&all) {
                return all;
            }
        }
    };
    timeout(Duration::from_secs(120), wait)
        .await
        .expect("the condition holds in time")
}

async fn leads(store: &Store, address: &str) {
    let mut feed = store.follow(keys::leader().as_str());
    let wait = async {
        loop {
            let leader = store.get(&keys::leader()).await.ok().flatten();
            if leader.is_some_and(|leader| leader.value.address == address) {
                return;
            }
            feed.next().await;
        }
    };
    timeout(Duration::from_secs(120), wait)
        .await
        .expect("elected in time");
}

async fn host(store: &Store, n: u8) -> MachineId {
    let id: MachineId = format!("{n:032x}").parse().expect("machine id");
    let machine = Machine {
        schema: 1,
        id: id.clone(),
        hostname: format!("deis-{n:02}"),
        address: format!("10.0.0.{n}"),
        memory_bytes: 4 << 30,
        cpus: 1,
        version: "2".into(),
        boot_id: "b".into(),
        metadata: Default::default(),
    };
    let txn = Txn::new().put(&keys::machine(&id), &machine);
    store.commit(txn).await.expect("committed");
    id
}

async fn unit(store: &Store, name: &str) {
    let text = "[Service]\nExecStart=/x\n".to_owned();
    let unit = UnitFile {
        schema: 1,
        text,
        target: UnitTarget::Launched,
    };
    let key = keys::unit(&name.parse().expect("unit"));
    store
        .commit(Txn::new().put(&key, &unit))
        .await
        .expect("committed");
}

#[tokio::test(start_paused = true)]
async fn one_leads_and_another_takes_over() {
    let store = Store::memory();
    host(&store, 1).await;
    let first = controller(&store, 1);
    leads(&store, "10.0.0.1").await;
    let second = controller(&store, 2);
    unit(&store, "deis-logger@1.service").await;
    until(&store, &keys::schedule(), |all| all.len() == 1).await;

    // It dies without a word: its lease has to run out.
    first.task.abort();
    leads(&store, "10.0.0.2").await;
    unit(&store, "deis-logger@2.service").await;
    until(&store, &keys::schedule(), |all| all.len() == 2).await;

    // It is stopped: the key goes at once.
    second.stop.cancel();
    second.task.await.expect("no panic").expect("no error");
    assert!(store.get(&keys::leader()).await.expect("read").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_deposed_leader_writes_nothing() {
    let store = Store::memory();
    host(&store, 1).await;
    let first = controller(&store, 1);
    leads(&store, "10.0.0.1").await;
    // Somebody takes the key away and holds it: not ours to argue with.
    let other = Leader {
        schema: 1,
        id: Uuid::new_v4(),
        address: "10.0.0.9".into(),
    };
    let key = keys::leader();
    store
        .commit(Txn::new().delete(&key))
        .await
        .expect("committed");
    store
        .commit(Txn::new().put(&key, &other))
        .await
        .expect("committed");
    unit(&store, "deis-logger@1.service").await;
    timeout(Duration::from_secs(30), std::future::pending::<()>())
        .await
        .expect_err("time passes");
    assert!(
        store
            .list(&keys::schedule())
            .await
            .expect("listed")
            .entries
            .is_empty()
    );
    // It is let go: the candidate is elected again, and does it.
    store
        .commit(Txn::new().delete(&key))
        .await
        .expect("committed");
    until(&store, &keys::schedule(), |all| all.len() == 1).await;
    first.stop.cancel();
    first.task.await.expect("no panic").expect("no error");
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_waited_out() {
    let memory = MemoryStore::new();
    let store = Store::from_memory(&memory);
    host(&store, 1).await;
    let controller = controller(&store, 1);
    leads(&store, "10.0.0.1").await;
    memory.set_faults(Faults {
        unreachable: true,
        ..Faults::default()
    });
    // Shorter than any lease: nobody loses one, but the view is broken.
    let outage = Duration::from_secs(3);
    timeout(outage, std::future::pending::<()>())
        .await
        .expect_err("time passes");
    memory.set_faults(Faults::default());
    unit(&store, "deis-logger@1.service").await;
    until(&store, &keys::schedule(), |all| all.len() == 1).await;
    controller.stop.cancel();
    controller.task.await.expect("no panic").expect("no error");
}

#[tokio::test(start_paused = true)]
async fn bootstrap_leads_until_done_and_gives_it_back() {
    let store = Store::memory();
    host(&store, 1).await;
    unit(&store, "deis-controller@1.service").await;
    let assigned = |world: &World| world.hosts().values().any(|host| !host.units.is_empty());
    bootstrap(store.clone(), "10.0.0.1", assigned, Duration::from_secs(20))
        .await
        .expect("done");
    assert!(store.get(&keys::leader()).await.expect("read").is_none());
    assert_eq!(
        store
            .list(&keys::schedule())
            .await
            .expect("listed")
            .entries
            .len(),
        1
    );

    let never = bootstrap(
        store.clone(),
        "10.0.0.1",
        |_| false,
        Duration::from_secs(20),
    )
    .await;
    assert!(matches!(
        never,
        Err(LeaderError::Deadline { limit_secs: 20, .. })
    ));
}
