//! What the trials of rollouts stand on: an app that behaves as its config says, a load on it, and the
//! moments of a rollout as etcd shows them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    io::{Read, Write},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use deis::{
    model::{AppName, Desired, ProcessName, ReleaseNumber, Rollout, RolloutPhase},
    store::{EtcdOptions, Store, keys},
};

use crate::{ground::Ground, support::*};

/// The app of these trials, and how many processes of it serve.
pub const ACTOR: &str = "actor";
pub const WEB: usize = 3;
/// How long its processes need until they listen: so a rollout can be met on its way.
const SLOW_START: &str = "SLOW_START=1.5";
/// So long a rollout may take that nobody keeps.
pub const ROLLED: Duration = Duration::from_secs(120);

/// A point of a rollout that etcd shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// It is recorded.
    Asked,
    /// The first process of the new release has its place.
    Placed,
    /// The first address of the new release is published.
    Published,
    /// The first process of the old release is to take no more requests.
    Draining,
    /// The first process of the old release is to stop.
    Stopping,
    /// It is given up, and goes back.
    Reverting,
}

impl Moment {
    /// Those of a rollout that goes well, in their order.
    pub const FORWARD: [Self; 5] = [
        Self::Asked,
        Self::Placed,
        Self::Published,
        Self::Draining,
        Self::Stopping,
    ];
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asked => "recorded",
            Self::Placed => "placed",
            Self::Published => "published",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
            Self::Reverting => "going back",
        })
    }
}

/// What etcd holds of the app's processes, read without a shell in between: moments are short.
pub struct Eye {
    runtime: tokio::runtime::Runtime,
    store: Store,
    app: AppName,
}

/// One look.
#[derive(Debug)]
pub struct Look {
    pub rollout: Option<Rollout>,
    pub assigned: BTreeMap<ProcessName, Desired>,
    pub published: BTreeSet<ProcessName>,
}

impl Look {
    fn shows(&self, moment: Moment, old: ReleaseNumber) -> bool {
        let new_assigned = self.assigned.keys().any(|name| name.release > old);
        let old_is = |wanted: Desired| {
            let mut all = self.assigned.iter();
            all.any(|(name, desired)| name.release == old && *desired == wanted)
        };
        match moment {
            Moment::Asked => self.rollout.is_some(),
            Moment::Placed => new_assigned,
            Moment::Published => self.published.iter().any(|name| name.release > old),
            Moment::Draining => old_is(Desired::Drain),
            Moment::Stopping => old_is(Desired::Stop),
            Moment::Reverting => self
                .rollout
                .as_ref()
                .is_some_and(|rollout| matches!(rollout.phase, RolloutPhase::Reverting { .. })),
        }
    }
}

impl Eye {
    pub fn open(ground: &Ground) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let endpoints = ground.cluster.hosts.iter();
        let options = EtcdOptions {
            endpoints: endpoints
                .map(|host| format!("http://{}:2379", host.address))
                .collect(),
            tls: None,
        };
        let store = runtime.block_on(Store::connect(options)).expect("etcd");
        Self {
            runtime,
            store,
            app: ACTOR.parse().expect("a name"),
        }
    }

    pub fn look(&self) -> Result<Look, String> {
        let (store, app) = (&self.store, &self.app);
        self.runtime.block_on(async {
            let error = |error: deis::store::StoreError| error.to_string();
            let rollout = store.get(&keys::rollout(app)).await.map_err(error)?;
            let schedule = store
                .list_readable(&keys::schedule())
                .await
                .map_err(error)?;
            let assigned = schedule.entries.into_iter().filter_map(|(key, entry)| {
                let name = keys::split_assignment(&key)?.1.parse().ok();
                let name = name.filter(|name: &ProcessName| name.app == *app)?;
                Some((name, entry.value.desired))
            });
            let services = store.list_keys(&keys::services_of(app)).await;
            let services = services.map_err(error)?;
            Ok(Look {
                rollout: rollout.map(|rollout| rollout.value),
                assigned: assigned.collect(),
                published: services
                    .iter()
                    .filter_map(|key| keys::parse_service(key))
                    .collect(),
            })
        })
    }

    /// The release that runs, with nothing under way.
    #[track_caller]
    pub fn release(&self) -> ReleaseNumber {
        let look = self.look().expect("etcd answers");
        let all: BTreeSet<ReleaseNumber> = look.assigned.keys().map(|name| name.release).collect();
        assert_eq!(all.len(), 1, "one release runs: {look:?}");
        *all.first().expect("one")
    }

    /// The newest release that there is: what failed has used up its number.
    pub fn newest(&self) -> ReleaseNumber {
        let releases = keys::releases(&self.app);
        let keys = self.runtime.block_on(self.store.list_keys(&releases));
        let keys = keys.expect("etcd answers");
        let numbers = keys
            .iter()
            .filter_map(|key| keys::last_part(key, releases.as_str())?.strip_prefix('v'));
        let newest = numbers.filter_map(|number| number.parse().ok()).max();
        ReleaseNumber(newest.expect("a release"))
    }

    /// Waits for a moment of the rollout that replaces `old`.
    #[track_caller]
    pub fn wait(&self, moment: Moment, old: ReleaseNumber) {
        let begun = Instant::now();
        loop {
            match self.look() {
                Ok(look) if look.shows(moment, old) => return,
                other if begun.elapsed() > ROLLED => panic!("never {moment}: {other:?}"),
                _ => thread::sleep(Duration::from_millis(2)),
            }
        }
    }
}

/// The app, well and with all its processes: its release is new in each trial.
pub fn actor(ground: &Ground) -> App<'_> {
    let app = if ground.user.deis(&["apps"]).ok().out.contains(ACTOR) {
        let app = App::kept(&ground.user, ACTOR);
        // Whatever a trial before has set; what a failed release had is in no later one.
        let list = app.deis(&["config:list"]).ok().out;
        for name in ["IDLE_CLOSE", "HEALTHCHECK_URL"] {
            if list.contains(name) {
                app.deis(&["config:unset", name]).ok();
            }
        }
        app.deis(&["rollout:unset"]);
        app
    } else {
        let files = [
            ("app.py", include_str!("../support/app/actor.py")),
            ("Procfile", "web: exec python3 app.py\n"),
        ];
        let app = App::create(&ground.user, ACTOR, &files);
        app.push().ok();
        app.keep();
        app.deis(&["config:set", SLOW_START]).ok();
        app
    };
    app.deis(&["scale", &format!("web={WEB}")]).ok();
    wait_whole(ground, ROLLED);
    app
}

/// Starts a rollout beside the caller.
pub fn change(ground: &Ground, words: &[&str]) -> Child {
    let mut command = ground.user.deis_command(words);
    let command = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().expect("deis")
}

/// The same, with a config that means nothing.
pub fn set(ground: &Ground, value: &str) -> Child {
    change(
        ground,
        &["config:set", "-a", ACTOR, &format!("SOAK={value}")],
    )
}

/// Waits until no rollout is left and exactly the app's processes are there, of one release: in etcd,
/// on the hosts, and for `deis ps`.
#[track_caller]
pub fn wait_whole(ground: &Ground, limit: Duration) {
    let eye = Eye::open(ground);
    eventually("the app is whole", limit, || whole(ground, &eye));
}

fn whole(ground: &Ground, eye: &Eye) -> Result<(), String> {
    let look = eye.look()?;
    let releases: BTreeSet<ReleaseNumber> = look.assigned.keys().map(|name| name.release).collect();
    let names: BTreeSet<&ProcessName> = look.assigned.keys().collect();
    let running = look
        .assigned
        .values()
        .all(|desired| *desired == Desired::Run);
    if look.rollout.is_some()
        || releases.len() != 1
        || look.assigned.len() != WEB
        || !running
        || !names.iter().copied().eq(&look.published)
    {
        return Err(format!("{look:?}"));
    }
    let places = ground.places(ACTOR)?;
    for host in ground.up() {
        let assigned = places.iter().filter(|(_, at)| **at == host.name);
        let assigned: Vec<&str> = assigned.map(|(name, _)| name.as_str()).collect();
        let running = ground.running_on(host, ACTOR);
        if running.units != assigned || running.containers != assigned {
            return Err(format!("{}: assigned {assigned:?}, {running:?}", host.name));
        }
    }
    let ps = ground.user.deis(&["ps", "-a", ACTOR]);
    let release = releases.first().expect("one");
    let up = ps.out.matches(&format!(" up ({release})")).count();
    let shown = ps.out.lines().filter(|line| line.contains(" (v")).count();
    if (up, shown) != (WEB, WEB) {
        return Err(ps.all());
    }
    Ok(())
}

/// The containers that serve the app, by name: whose are the same, were never stopped.
pub fn containers(ground: &Ground) -> BTreeMap<String, String> {
    let script = format!(
        "podman ps --no-trunc --format '{{{{.Names}}}} {{{{.ID}}}}' --filter name=^{ACTOR}_v"
    );
    let mut found = BTreeMap::new();
    for host in ground.up() {
        let out = ground.cluster.sh(host, &script).ok().out;
        let pairs = out.lines().filter_map(|line| line.split_once(' '));
        found.extend(pairs.map(|(name, id)| (name.to_owned(), id.to_owned())));
    }
    found
}

/// Quick requests and slow ones through these hosts' routers.
pub struct Traffic(Load, Load);

impl Traffic {
    pub fn start(hosts: &[&Host]) -> Self {
        let addresses: Vec<String> = hosts
            .iter()
            .map(|host| format!("{}:80", host.address))
            .collect();
        Self(
            Load::of(ACTOR, "/", 60, &addresses),
            // Some of them are under way at each moment, so that none is too short to be met.
            Load::of(ACTOR, "/slow?s=1", 8, &addresses),
        )
    }

    pub fn begun(&self) -> Instant {
        self.0.begun
    }

    pub fn finish(self) -> Loaded {
        let (mut quick, slow) = (self.0.finish(), self.1.finish());
        quick.sent += slow.sent;
        quick.failures.extend(slow.failures);
        quick
    }

    /// No request may have failed. Tells how many there were.
    #[track_caller]
    pub fn none_failed(self) -> usize {
        let loaded = self.finish();
        crate::ground::none_failed(&loaded);
        loaded.sent
    }
}

/// A command on a host that waits for its moment, so that it is there within milliseconds.
pub struct Armed(Child);

impl Armed {
    /// `script` is run on the host once it is fired.
    pub fn new(ground: &Ground, host: &Host, script: &str) -> Self {
        let script = format!("echo armed; read go; {script}");
        let cluster = &ground.cluster.name;
        let mut command = Command::new(DEISCTL);
        command.args([
            "cluster", "exec", "--name", cluster, &host.name, "--", "sh", "-c", &script,
        ]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("deisctl");
        let out = child.stdout.as_mut().expect("stdout");
        out.read_exact(&mut [0; 6]).expect("it is armed");
        Self(child)
    }

    /// All processes of the host's units that are called so get a signal.
    pub fn signal(ground: &Ground, host: &Host, units: &str, signal: &str) -> Self {
        Self::new(
            ground,
            host,
            &format!("systemctl kill -s {signal} '{units}'"),
        )
    }

    pub fn fire(mut self) {
        let mut stdin = self.0.stdin.take().expect("stdin");
        stdin.write_all(b"go\n").expect("fired");
        drop(stdin);
        let status = self.0.wait().expect("it ends");
        assert!(status.success(), "it was done: {status}");
    }
}
