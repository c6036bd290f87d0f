//! No line is lost, or the loss is counted.

use std::{thread, time::Duration};

use crate::support::*;

const LINES: usize = 100_000;

#[test]
fn every_line_once_while_all_is_killed() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = App::pushed(&user, "talker");
    let host = cluster.host_of("talker_v2.web.1").clone();
    let step = 10_000;
    for (round, from) in (0..LINES).step_by(step).enumerate() {
        app.get(&format!("/print?from={from}&to={}", from + step))
            .expect("printing");
        thread::sleep(Duration::from_millis(150));
        let script = match round % 3 {
            0 => "systemctl kill -s KILL talker_v2.web.1-log.service",
            1 => "systemctl kill -s KILL deis-agent",
            _ => "systemctl kill -s KILL 'deis-logger@*.service'",
        };
        if round % 3 == 2 {
            cluster.on_all(script);
        } else {
            cluster.sh(&host, script).ok();
        }
        thread::sleep(Duration::from_millis(500));
    }
    // All there, once each; or a counter that says how many are not.
    let (numbers, dropped) = eventually("all lines are stored", 2 * MINUTE, || {
        let said = app.deis(&["logs", "-n", "200000"]);
        if said.status != Some(0) {
            // The logger that was killed last isn't back yet.
            return Err(said.err);
        }
        let logs = said.out;
        let numbers: Vec<usize> = logs
            .lines()
            .filter_map(|line| {
                line.split_once("talker[web.1]: line ")?
                    .1
                    .get(..6)?
                    .parse()
                    .ok()
            })
            .collect();
        let dropped: usize = logs
            .lines()
            .filter(|line| line.contains("dropped"))
            .filter_map(|line| {
                line.split_once("]: ")?
                    .1
                    .split(' ')
                    .next()?
                    .parse::<usize>()
                    .ok()
            })
            .sum();
        if numbers.len() + dropped >= LINES {
            Ok((numbers, dropped))
        } else {
            Err(format!("{} lines and {dropped} dropped", numbers.len()))
        }
    });
    assert_eq!(numbers.len() + dropped, LINES, "no line twice");
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "in order");
    println!(
        "{} lines stored, {dropped} dropped and counted",
        numbers.len()
    );
    let line = app.deis(&["logs", "-n", "1"]).ok().out;
    assert!(
        line.starts_with("20") && line.contains(" talker[web.1]: line "),
        "{line}"
    );
}
