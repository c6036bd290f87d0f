//! What is left over from before a host's boot, and what only a bad moment brings about; each was found
//! by the simulation.

use super::*;

/// A host that lost its power with everything on it, and whose processes were moved meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_with_nothing_says_so() {
    let mut host = Host::new().await;
    host.boot().await;
    host.serve(WEB, 1).await;
    host.end().await;
    host.unassign(WEB).await;
    host.reboot().await;
    host.until("an empty report", |state| state.processes.is_empty())
        .await;
}

/// The power went while the process served; when it is back, the process is to go.
#[tokio::test(flavor = "multi_thread")]
async fn the_address_goes_of_what_went_with_the_power() {
    for desired in [Desired::Drain, Desired::Stop] {
        let mut host = Host::new().await;
        host.boot().await;
        host.serve(WEB, 1).await;
        host.end().await;
        host.assign(WEB, 1, desired).await;
        host.reboot().await;
        let address = async || {
            while host.published(WEB).await.is_some() {
                time::sleep(Duration::from_millis(5)).await;
            }
        };
        let went = time::timeout(PATIENCE, address()).await;
        went.unwrap_or_else(|_| panic!("published still, to {desired:?}"));
        match desired {
            Desired::Drain => {
                let told = |p: &ProcessState| p.withdrawn.is_some();
                host.until_process(WEB, "withdrawn", told).await;
                host.assign(WEB, 1, Desired::Stop).await;
            }
            Desired::Run | Desired::Load | Desired::Stop => {}
        }
        host.until("gone", |state| state.processes.is_empty()).await;
    }
}

/// The same, and its start had begun anew but not come to an end when it was to go.
#[tokio::test(flavor = "multi_thread")]
async fn the_address_goes_of_what_never_came_up_again() {
    let mut host = Host::new().await;
    host.boot().await;
    host.serve(WEB, 1).await;
    host.reboot().await;
    host.until_process(WEB, "started", |p| p.phase == Phase::Starting)
        .await;
    host.assign(WEB, 1, Desired::Drain).await;
    host.until_process(WEB, "withdrawn", |p| p.withdrawn.is_some())
        .await;
    assert_eq!(host.published(WEB).await, None);
}

/// The answer to a withdrawal was lost: routers hear of the revision that is reported all the same.
#[tokio::test(flavor = "multi_thread")]
async fn routers_hear_of_a_withdrawal_that_nobody_saw() {
    let mut host = Host::new().await;
    host.boot().await;
    host.serve(WEB, 1).await;
    let mut routers = host.store.follow(keys::services().as_str());
    let mut heard = routers.next().await.revision;
    let process: ProcessName = WEB.parse().expect("name");
    let key = keys::service(&process.app, &process);
    let gone = host.store.commit(Txn::new().delete(&key)).await;
    // Whatever else happens in the cluster is no news for routers.
    host.assign("blog_v1.worker.1", 9, Desired::Run).await;
    host.assign(WEB, 1, Desired::Drain).await;
    let told = host
        .until_process(WEB, "withdrawn", |p| p.withdrawn.is_some())
        .await;
    let told = told.withdrawn.expect("withdrawn");
    assert!(told > gone.expect("deleted"), "no earlier than it went");
    let hear = async {
        while heard < told {
            heard = routers.next().await.revision;
        }
    };
    let all = time::timeout(PATIENCE, hear).await;
    all.expect("routers hear of something at that revision or later");
}

/// The leader wanted it drained and took that back, and the agent hears of the one only.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_was_taken_back_withdraws_nothing() {
    let mut host = Host::new().await;
    host.boot().await;
    host.serve(WEB, 1).await;
    host.end().await;
    let key = keys::assignment(&host.machine, WEB);
    let revision = async || {
        let there = host.store.get(&key).await.expect("read");
        Some(there.expect("assigned").mod_revision)
    };
    host.assign(WEB, 1, Desired::Drain).await;
    let drained = revision().await;
    host.assign(WEB, 1, Desired::Run).await;
    let withdraw = |at| host.edges().withdraw(WEB.to_owned(), at, None);
    let refused = withdraw(drained).await;
    assert!(
        matches!(refused, Err(steps::StepError::Outdated)),
        "{refused:?}"
    );
    assert!(host.published(WEB).await.is_some());
    withdraw(revision().await).await.expect("withdrawn");
    assert_eq!(host.published(WEB).await, None);
}
