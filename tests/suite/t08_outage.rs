//! etcd is gone; nobody notices. Longer than leases and graces; `make soak` does it for ten minutes.

use std::{thread, time::Duration};

use crate::support::*;

#[test]
fn half_a_minute_without_etcd() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = App::pushed(&user, "static");
    app.deis(&["scale", "web=3"]).ok();
    let load = Load::start("static", 50);
    cluster
        .on_all("systemctl stop deis-etcd")
        .into_values()
        .for_each(|ran| drop(ran.ok()));
    thread::sleep(Duration::from_secs(15));
    // The outage is real: a write is refused, and says why.
    let refused = app.deis(&["config:set", "DURING=outage"]).refused();
    println!("a write meanwhile: {}", refused.err.trim());
    let written = cluster.etcdctl(
        &cluster.hosts[0],
        "--dial-timeout=2s --command-timeout=3s put /deis/test x",
    );
    assert_ne!(written.status, Some(0), "etcd is away: {written:?}");
    thread::sleep(Duration::from_secs(15));
    let up = cluster.on_all("podman ps -q --filter name=^static_ | wc -l");
    assert!(
        up.values().all(|ran| ran.out.trim() == "1"),
        "nothing was stopped: {up:?}"
    );
    cluster
        .on_all("systemctl start deis-etcd --no-block")
        .into_values()
        .for_each(|ran| drop(ran.ok()));
    eventually("changes work again by themselves", 2 * MINUTE, || {
        let set = app.deis(&["config:set", "AFTER=outage"]);
        if set.status == Some(0) {
            Ok(())
        } else {
            Err(set.err)
        }
    });
    let loaded = load.finish();
    println!("{} requests during the outage", loaded.sent);
    assert!(loaded.sent > 1000, "the load was there: {}", loaded.sent);
    assert!(
        loaded.failures.is_empty(),
        "{:#?}",
        &loaded.failures[..loaded.failures.len().min(20)]
    );
    let ps = app.deis(&["ps"]).ok().out;
    assert_eq!(ps.matches(" up (v").count(), 3, "{ps}");
}
