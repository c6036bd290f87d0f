//! A record under /deis that nobody can read harms its own thing only.

use std::{thread, time::Duration};

use crate::{
    ground::{APP, Ground, Notes, none_failed},
    support::*,
};

/// What stands in the record's place.
const GARBAGE: [&str; 3] = ["{not json", r#"{"schema":99}"#, "[]"];
/// An app beside the watched one, for records that are an app's.
const VICTIM: &str = "victim";

/// A key and its value, bytes in base64.
fn read(ground: &Ground, key: &str) -> Option<String> {
    let host = &ground.cluster.hosts[0];
    let text = ground
        .cluster
        .etcdctl(host, &format!("get -w json {key}"))
        .ok()
        .out;
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    json["kvs"][0]["value"].as_str().map(str::to_owned)
}

fn write(ground: &Ground, key: &str, base64: &str) {
    let host = &ground.cluster.hosts[0];
    let script = format!(
        "echo {base64} | base64 -d | etcdctl --endpoints http://{}:2379 put -- {key}",
        host.address
    );
    ground.cluster.sh(host, &script).ok();
}

/// Puts a record back as it was, also when the trial fails.
struct Restored<'a> {
    ground: &'a Ground,
    key: &'a str,
    good: Option<String>,
}

impl Drop for Restored<'_> {
    fn drop(&mut self) {
        let host = &self.ground.cluster.hosts[0];
        match &self.good {
            Some(good) => write(self.ground, self.key, good),
            None => drop(
                self.ground
                    .cluster
                    .etcdctl(host, &format!("del {}", self.key)),
            ),
        }
    }
}

/// The cluster takes changes of an app that has nothing to do with it, and doesn't touch it else.
fn bystander_is_fine(ground: &Ground, app: &App<'_>, key: &str) {
    let lives = ground.cluster.lives(APP);
    for scale in ["web=4", "web=3"] {
        let ran = app.deis(&["scale", scale]);
        assert_eq!(ran.status, Some(0), "with {key} corrupt: {ran:#?}");
    }
    ground.wait_settled(MINUTE);
    assert_eq!(ground.cluster.lives(APP), lives, "with {key} corrupt");
    let list = ground.cluster.deisctl(&["list"]);
    assert!(
        list.status == Some(0) && list.out.contains(APP),
        "with {key} corrupt: {list:#?}"
    );
}

/// First key below a prefix that has a word in it.
fn key_with(ground: &Ground, prefix: &str, word: &str) -> String {
    let found = ground.values(prefix).expect("etcd answers");
    let key = found.keys().find(|key| key.contains(word));
    key.cloned()
        .unwrap_or_else(|| panic!("no {word} below {prefix}"))
}

pub fn records_that_are_corrupt(ground: &Ground, notes: &mut Notes) {
    let app = ground.steady();
    let victim = App::pushed(&ground.user, VICTIM);
    let load = Load::start(APP, 30);
    let served = Load::start(VICTIM, 10);
    let machine = &ground.cluster.hosts[1].machine_id;
    let keys = [
        (
            "assignment",
            key_with(ground, "/deis/schedule/", &format!("{VICTIM}_v2.web.1")),
        ),
        ("release", format!("/deis/apps/{VICTIM}/releases/v2")),
        ("app", format!("/deis/apps/{VICTIM}")),
        (
            "build",
            key_with(ground, &format!("/deis/apps/{VICTIM}/builds/"), VICTIM),
        ),
        (
            "config",
            key_with(ground, &format!("/deis/apps/{VICTIM}/configs/"), VICTIM),
        ),
        ("outcome", format!("/deis/apps/{VICTIM}/outcomes/v2")),
        ("route", format!("/deis/routes/{VICTIM}-x")),
        ("host", format!("/deis/hosts/{machine}")),
        (
            "machine",
            "/deis/machines/ffffffffffffffffffffffffffffffff".to_owned(),
        ),
        ("state", format!("/deis/state/{machine}")),
        (
            "service",
            format!("/deis/services/{VICTIM}/{VICTIM}_v2.web.9"),
        ),
        ("unit", "/deis/units/garbage@1.service".to_owned()),
        ("domain", "/deis/domains/garbage.example.com".to_owned()),
        ("certificate", "/deis/certs/garbage.example.com".to_owned()),
    ];
    let lives = ground.cluster.lives(VICTIM);
    for (kind, key) in &keys {
        let restored = Restored {
            ground,
            key,
            good: read(ground, key),
        };
        for garbage in GARBAGE {
            let host = &ground.cluster.hosts[0];
            let url = format!("http://{}:2379", host.address);
            let put = format!("printf %s '{garbage}' | etcdctl --endpoints {url} put -- {key}");
            ground.cluster.sh(host, &put).ok();
            thread::sleep(Duration::from_secs(1));
        }
        write(ground, key, "e25vdCBqc29u"); // "{not json"
        thread::sleep(Duration::from_secs(2));
        bystander_is_fine(ground, &app, key);
        assert_eq!(
            ground.cluster.lives(VICTIM),
            lives,
            "a {kind} that can't be read stops nothing"
        );
        drop(restored);
        println!("    {kind}: {key}");
    }
    // Mended, it can be changed again.
    eventually("the victim takes changes", 2 * MINUTE, || {
        let ran = victim.deis(&["config:set", "MENDED=1"]);
        if ran.status == Some(0) {
            Ok(())
        } else {
            Err(ran.all())
        }
    });
    notes.figure(format!(
        "{} kinds of records, {} values each",
        keys.len(),
        GARBAGE.len()
    ));
    none_failed(&served.finish());
    none_failed(&load.finish());
}
