//! Real containers: an app from nothing to 60 processes.

use std::{cell::Cell, net::SocketAddr};

use crate::{
    hosts::{Hosts, Operations},
    suite::{self, User},
};

/// Processes of the app.
pub const COUNT: usize = 60;
const APP: &str = "bench";
/// What the copies that are started by hand are called.
const COPY: &str = "copied";

/// The hello example.
pub struct App {
    user: User,
    copied: Cell<bool>,
    /// Turns by hand so far. Each has names of its own, as the agents' units have: systemd refuses a
    /// socket again whose service it still knows.
    turns: Cell<u32>,
}

impl App {
    /// Pushes it, and has every host take its image.
    pub fn pushed(hosts: &Hosts) -> Self {
        let user = User::first(&hosts.cluster);
        let files = [
            ("app.py", include_str!("../../examples/hello/app.py")),
            ("Procfile", include_str!("../../examples/hello/Procfile")),
        ];
        let app = suite::App::create(&user, APP, &files);
        app.push().ok();
        // The app stays until the cluster goes.
        std::mem::forget(app);
        let app = Self {
            user,
            copied: false.into(),
            turns: 0.into(),
        };
        app.scale(hosts.hosts.len() * 2);
        app.empty(hosts);
        app
    }

    pub fn scale(&self, count: usize) {
        self.user
            .deis(&["scale", &format!("web={count}"), "-a", APP])
            .ok();
    }

    fn empty(&self, hosts: &Hosts) {
        self.scale(0);
        hosts.wait_until_gone(&format!("{APP}_v"));
    }

    /// From the request until all are healthy, published and reported.
    pub fn ours(&self, hosts: &Hosts, operations: &mut Vec<Operations>) -> f64 {
        let before = hosts.counters();
        let scale = async || {
            let mut command =
                self.user
                    .deis_command(&["scale", &format!("web={COUNT}"), "-a", APP]);
            let output = tokio::task::spawn_blocking(move || command.output()).await;
            let output = output.expect("ended").expect("deis");
            assert!(output.status.success(), "{output:?}");
        };
        let took = hosts.time_until_ready(&format!("{APP}_v"), COUNT, scale);
        operations.push(hosts.since(&before));
        self.copy(hosts);
        self.empty(hosts);
        took
    }

    /// Copies what the agents have written, under another name.
    fn copy(&self, hosts: &Hosts) {
        if self.copied.replace(true) {
            return;
        }
        hosts.on_all(&format!(
            "mkdir -p /run/bench-units /run/bench-env
             copy() {{ for file in $1/{APP}_v*; do [ -e $file ] || continue
                 name=$(basename $file | sed 's/^{APP}_v/{COPY}_v/')
                 sed 's/{APP}_v/{COPY}_v/g' $file >$2/$name; chmod 600 $2/$name; done; }}
             copy /run/systemd/system /run/bench-units
             copy /run/deis/env /run/bench-env"
        ));
    }

    /// The same units with their sidecars, by other names, until all are healthy by the announcers' own
    /// rule. The announcers themselves say so to an agent that knows nothing of these processes.
    pub fn by_hand(&self, hosts: &Hosts) -> f64 {
        if !self.copied.get() {
            self.scale(COUNT);
            self.copy(hosts);
            self.empty(hosts);
        }
        let turn = self.turns.replace(self.turns.get() + 1);
        let name = format!("{COPY}{turn}_v");
        hosts.on_all(&format!(
            "copy() {{ for file in $1/*; do [ -e $file ] || continue
                 to=$2/$(basename $file | sed 's/^{COPY}_v/{name}/')
                 sed 's/{COPY}_v/{name}/g' $file >$to; chmod 600 $to; done; }}
             copy /run/bench-units /run/systemd/system
             copy /run/bench-env /run/deis/env"
        ));
        let on_each = |script: &str| -> Vec<Vec<String>> {
            let each = hosts.hosts.iter().map(|host| {
                let ran = hosts.cluster.sh(&host.of_suite, script).ok();
                ran.out.split_whitespace().map(str::to_owned).collect()
            });
            each.collect()
        };
        let units = on_each(&format!(
            "cd /run/systemd/system; ls | grep ^{name} | grep -v -e '-announce' -e '-log' || true"
        ));
        let ports = on_each(
            r#"grep -ho -e '"--address" "[0-9.:]*"' /run/bench-units/*-announce.service | cut -d '"' -f 4"#,
        );
        let ports: Vec<SocketAddr> = ports
            .iter()
            .flatten()
            .map(|port| port.parse().expect("an address"))
            .collect();
        assert_eq!(units.iter().flatten().count(), COUNT);
        assert_eq!(ports.len(), COUNT);
        let took = hosts.time_by_hand(&units, || hosts.wait_until_healthy(&ports));
        hosts.on_all(&format!(
            "systemctl stop '{name}*'; rm -f /run/systemd/system/{name}* /run/deis/env/{name}*"
        ));
        took
    }
}
