//! A host is emptied under load, and taken back.

use std::time::Duration;

use crate::support::*;

#[test]
fn a_host_is_drained_and_no_request_fails() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = App::test_app(&user, "moves");
    app.push().ok();
    app.deis(&["scale", "web=3"]).ok();
    let home = cluster.host_of("moves_v2.web.1").clone();
    let runs_there = || !cluster.lives("moves")[&home.name].trim().is_empty();
    assert!(runs_there());

    let load = Load::start("moves", 50);
    let drained = cluster
        .deisctl(&["drain", &home.name, "--timeout", "60"])
        .ok();
    let load = load.finish();
    assert_eq!(load.failures, [], "of {} requests", load.sent);
    assert!(load.sent > 50, "{} requests", load.sent);
    assert!(
        drained.out.contains(&format!("{} is empty", home.name)),
        "{}",
        drained.out
    );

    assert!(!runs_there(), "{:?}", cluster.lives("moves"));
    for number in 1..=3 {
        let process = cluster.host_of(&format!("moves_v2.web.{number}"));
        assert_ne!(process.name, home.name, "web.{number} is elsewhere");
    }
    let why = cluster.deisctl(&["explain", "moves.web.1"]).ok().out;
    assert!(
        why.contains(&home.name) && why.contains("is being drained"),
        "{why}"
    );
    let hosts = cluster.deisctl(&["machines"]).ok().out;
    assert!(hosts.contains("drained"), "{hosts}");

    cluster.deisctl(&["uncordon", &home.name]).ok();
    let why = cluster.deisctl(&["explain", "moves.web.1"]).ok().out;
    assert!(!why.contains("drained"), "{why}");
    // What was moved from it comes back by itself: the platform's own parts.
    eventually("all parts have a place", Duration::from_secs(30), || {
        let plan = cluster.deisctl(&["plan"]).ok().out;
        if plan.contains("nothing is to be done") {
            Ok(())
        } else {
            Err(plan)
        }
    });
    app.destroy();
}
