//! For tests: a controller on loopback over a store in memory, with a leader that carries out every
//! change at once and an agent that answers one-off processes. Both only do in etcd what the real
//! ones do there.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use super::{Shared, State, attach, auth, server, stand_in::StandIn};
use crate::{
    link::links,
    model::*,
    ops,
    plan::admission::admit,
    seal::{ClusterKey, order_context},
    session::{Channel, Order},
    store::{Store, Txn, keys},
};

/// A controller that runs as long as this lives.
pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    pub(crate) store: Store,
    pub(super) state: State,
    _stop: DropGuard,
}

/// One answer, as it came over the socket.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The status line without its line break.
    pub(crate) line: String,
    /// Header lines, as sent.
    pub(crate) headers: Vec<String>,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn status(&self) -> u16 {
        let code = self.line.split(' ').nth(1).expect("status");
        code.parse().expect("number")
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|line| {
            let (n, value) = line.split_once(": ")?;
            n.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

/// The one host of the site.
pub(crate) fn machine() -> MachineId {
    "1".repeat(32).parse().expect("machine id")
}

fn cluster_key() -> ClusterKey {
    ClusterKey::parse(&STANDARD.encode([7; 32])).expect("key")
}

impl Site {
    pub(crate) async fn start() -> Self {
        let store = Store::memory();
        let key = cluster_key();
        let api = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("bind");
        let delivery = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("bind");
        let address = api.local_addr().expect("address");
        let attach_address = delivery.local_addr().expect("address");
        let state = Shared::new(store.clone(), Arc::new(key), attach_address);
        let stop = CancellationToken::new();
        tokio::spawn(server::serve(
            links().listen(api),
            state.clone(),
            stop.clone(),
        ));
        tokio::spawn(attach::serve(
            links().listen(delivery),
            state.clone(),
            stop.clone(),
        ));
        let machine = Machine {
            schema: SCHEMA,
            id: machine(),
            hostname: "host-1".into(),
            address: "10.0.0.1".into(),
            memory_bytes: 1 << 40,
            cpus: 2,
            version: String::new(),
            boot_id: String::new(),
            metadata: BTreeMap::new(),
        };
        let txn = Txn::new()
            .put(&keys::machine(&machine.id), &machine)
            .put(&keys::platform("domain"), &"example.com".to_owned());
        store.commit(txn).await.expect("machine");
        for work in [
            tokio::spawn(lead(store.clone())),
            tokio::spawn(agent(store.clone())),
        ] {
            let stop = stop.clone();
            tokio::spawn(async move {
                stop.cancelled().await;
                work.abort();
            });
        }
        Self {
            address,
            store,
            state,
            _stop: stop.drop_guard(),
        }
    }

    /// Sends bytes, and reads until the server closes.
    pub(crate) async fn raw(&self, request: &[u8]) -> Reply {
        let mut socket = TcpStream::connect(self.address).await.expect("connect");
        socket.write_all(request).await.expect("send");
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await.expect("answer");
        let text = String::from_utf8(answer).expect("text");
        let (head, body) = text
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("no head: {text:?}"));
        let mut lines = head.split("\r\n").map(str::to_owned);
        let mut reply = Reply {
            line: lines.next().expect("status line"),
            headers: lines.collect(),
            body: body.to_owned(),
        };
        if reply.header("transfer-encoding") == Some("chunked") {
            reply.body = unchunk(&reply.body);
        }
        reply
    }

    /// One request; a body of null is no body.
    pub(crate) async fn call(&self, token: &str, method: &str, path: &str, body: Value) -> Reply {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let authorization = if token.is_empty() {
            String::new()
        } else {
            format!("Authorization: token {token}\r\n")
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: deis.example.com\r\nConnection: close\r\n\
             Content-Type: application/json\r\n{authorization}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.raw(request.as_bytes()).await
    }

    /// A user with a token, without the cost of hashing a password.
    pub(crate) async fn user(&self, name: &str, is_superuser: bool) -> String {
        let username: Username = name.parse().expect("name");
        let user = User {
            schema: SCHEMA,
            uuid: Uuid::new_v4(),
            username: username.clone(),
            email: String::new(),
            first_name: String::new(),
            last_name: String::new(),
            password: String::new(),
            is_superuser,
            created: Timestamp::now(),
            last_login: None,
        };
        let (token, txn) =
            auth::mint(&auth::login(username.clone(), Timestamp::now())).expect("token");
        let txn = txn.put(&keys::user(&username), &user);
        self.store.commit(txn).await.expect("user");
        token
    }

    /// Deploys a build with types web and worker, as the builder does after a push.
    pub(crate) async fn push(&self, app: &str, by: &str) {
        self.push_types(app, by, ImageKind::Slug, &["web", "worker"])
            .await;
    }

    /// Deploys a build with these process types.
    pub(crate) async fn push_types(&self, app: &str, by: &str, kind: ImageKind, types: &[&str]) {
        let app: AppName = app.parse().expect("app");
        let by = by.parse().expect("user");
        let command = |name: &&str| (name.parse().expect("type"), format!("start {name}"));
        let build = ops::change::NewBuild {
            image: format!("{app}@sha256:00"),
            source: None,
            kind,
            port: 5000,
            sha: "0123456789abcdef0123456789abcdef01234567".into(),
            procfile: types.iter().map(command).collect(),
            dockerfile: kind == ImageKind::Image,
        };
        let change = ops::change::deploy(&self.store, &app, &by, &build, &mut |_| {}).await;
        let rollout = change.expect("deployed").rollout.expect("rollout");
        let mut say = |_: &str| {};
        let ended = ops::follow::wait(&self.store, &app, rollout, ops::follow::LIMIT, &mut say);
        assert_eq!(ended.await.expect("ended").result, OutcomeResult::Succeeded);
    }
}

fn unchunk(body: &str) -> String {
    let mut whole = String::new();
    let mut rest = body;
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("size");
        whole.push_str(&after[..size]);
        rest = after[size..].trim_start_matches("\r\n");
    }
    whole
}

/// Carries out every rollout at once; one whose config has the variable FAIL is given up, as are all
/// while the setting `testFailure` says why, and restarts of the app `stuck` never end.
async fn lead(store: Store) {
    let mut feed = store.follow("/deis/apps/");
    loop {
        for change in feed.next().await.changes {
            let Some(entry) = change.entry else { continue };
            let rest = change.key.strip_prefix("/deis/apps/").expect("prefix");
            match rest.split_once('/') {
                None => {
                    let app: App = entry.decode().expect("app");
                    if app.destroying {
                        destroy(&store, &rest.parse().expect("name")).await;
                    }
                }
                Some((name, "rollout")) => {
                    let rollout: Rollout = entry.decode().expect("rollout");
                    let restart = matches!(rollout.change, RolloutKind::Restart { .. });
                    if name != "stuck" || !restart {
                        finish(&store, &name.parse().expect("name"), rollout).await;
                    }
                }
                Some(_) => {}
            }
        }
    }
}

async fn destroy(store: &Store, name: &AppName) {
    let mut txn = Txn::new()
        .delete_prefix(&keys::app_tree(name))
        .delete(&keys::route(name))
        .delete(&keys::app(name));
    let domains = store.list(&keys::domains()).await.expect("domains");
    for (_, domain) in domains.entries {
        if domain.value.app == *name {
            txn = txn.delete(&keys::domain(&domain.value.domain));
        }
    }
    store.commit(txn).await.expect("destroyed");
}

async fn config_of(store: &Store, name: &AppName, release: ReleaseNumber) -> Config {
    let contents = ops::change::contents(store, name, release);
    contents.await.expect("store").expect("release").1
}

async fn finish(store: &Store, name: &AppName, rollout: Rollout) {
    let mut app = store
        .get(&keys::app(name))
        .await
        .expect("store")
        .expect("app")
        .value;
    let release = rollout.release;
    let config = config_of(store, name, release).await;
    let failure = store.get(&keys::platform("testFailure")).await;
    let failure = failure.expect("store").map(|why| why.value);
    let failure = failure.filter(|why| why != "off");
    let crash = config.values.keys().any(|key| key.as_str() == "FAIL");
    let failure = failure.or_else(|| crash.then(|| "web.1 exits with 1".to_owned()));
    let failed = failure.is_some();
    let (result, reason, log) = if let Some(reason) = failure {
        (
            OutcomeResult::Failed,
            Some(reason),
            vec!["no such module".to_owned()],
        )
    } else {
        app.active = release;
        app.structure = rollout.structure.clone();
        (OutcomeResult::Succeeded, None, vec![])
    };
    app.last_rollout = Some(RolloutEnd {
        id: rollout.id,
        result,
        reason: reason.clone(),
    });
    let route = store.get(&keys::route(name)).await.expect("route");
    let admitted = config_of(store, name, app.active).await.whitelist;
    let mut txn = Txn::new()
        .put(&keys::app(name), &app)
        .delete(&keys::rollout(name))
        .and(admit(name, route.as_ref(), &admitted));
    if rollout.change == RolloutKind::Release {
        let outcome = Outcome {
            schema: SCHEMA,
            version: release,
            result,
            reason,
            log,
            receipt: None,
            finished: Timestamp::now(),
        };
        txn = txn.put(&keys::outcome(name, release), &outcome);
    }
    if !failed {
        txn = txn.and(processes(store, name, &app).await);
    }
    store.commit(txn).await.expect("finished");
}

/// The app's processes, all up.
async fn processes(store: &Store, name: &AppName, app: &App) -> Txn {
    let machine = machine();
    let mut txn = Txn::new();
    let schedule = store
        .list(&keys::schedule_of(&machine))
        .await
        .expect("schedule");
    let state = store.get(&keys::state(&machine)).await.expect("state");
    let mut state = state.map_or(
        MachineState {
            schema: SCHEMA,
            registration: None,
            processes: BTreeMap::new(),
        },
        |state| state.value,
    );
    let wanted: BTreeSet<ProcessName> = slots(&app.structure)
        .into_iter()
        .map(|id| ProcessName::first(name.clone(), app.active, id.kind, id.number))
        .collect();
    for (key, _) in schedule.entries {
        let (_, process) = keys::parse_assignment(&key).expect("assignment");
        let process: ProcessName = process.parse().expect("process");
        if process.app == *name && !wanted.contains(&process) {
            txn = txn.delete(&keys::assignment(&machine, &process.to_string()));
            state.processes.remove(&process.to_string());
        }
    }
    for process in wanted {
        let uuid = Uuid::new_v4();
        let assignment = Assignment {
            schema: SCHEMA,
            uuid,
            desired: Desired::Run,
            work: Work::Process {
                rollout: None,
                memory_bytes: DEFAULT_MEMORY_BYTES,
                cpu_shares: 0,
                single: false,
                marks: 0,
            },
        };
        txn = txn.put(
            &keys::assignment(&machine, &process.to_string()),
            &assignment,
        );
        state
            .processes
            .insert(process.to_string(), report(uuid, Phase::Up, None));
    }
    txn.put(&keys::state(&machine), &state)
}

fn report(uuid: Uuid, phase: Phase, reason: Option<String>) -> ProcessState {
    ProcessState {
        unit: None,
        uuid,
        phase,
        ready: phase == Phase::Up,
        port: None,
        withdrawn: None,
        fenced: None,
        exit: None,
        exit_code: None,
        restarts: 0,
        since: Timestamp::now(),
        reason,
        log: vec![],
    }
}

/// Runs one-off processes: `vanish` takes the host with it, `refuse` can't be started, `impostor` is
/// first spoken for with a wrong token, `mute` ends without a word; for all else see [`StandIn::play`].
async fn agent(store: Store) {
    let (key, machine) = (cluster_key(), machine());
    let mut feed = store.follow(keys::schedule_of(&machine).as_str());
    loop {
        for change in feed.next().await.changes {
            let Some(entry) = change.entry else { continue };
            let assignment: Assignment = entry.decode().expect("assignment");
            let Work::Run {
                order: Some(order),
                attach: Some(attach),
                ..
            } = assignment.work
            else {
                continue;
            };
            let context = order_context(assignment.uuid);
            let opened = key.open(&context, &order).expect("opens here");
            let order: Order = serde_json::from_slice(opened.expose()).expect("order");
            let token = order.token.clone().expect("somebody waits");
            let (_, name) = keys::parse_assignment(&change.key).expect("key");
            let said = |phase, ready, reason: &str| MachineState {
                schema: SCHEMA,
                registration: None,
                processes: BTreeMap::from([(
                    name.to_owned(),
                    ProcessState {
                        unit: None,
                        ready,
                        ..report(assignment.uuid, phase, Some(reason.to_owned()))
                    },
                )]),
            };
            let txn = match order.command.as_str() {
                "vanish" => Txn::new().delete(&keys::machine(&machine)),
                "refuse" => Txn::new().put(
                    &keys::state(&machine),
                    &said(Phase::Error, false, "no image"),
                ),
                "mute" => {
                    let state = said(Phase::Stopping, true, "ended with exit code 255: power cut");
                    Txn::new().put(&keys::state(&machine), &state)
                }
                _ => {
                    tokio::spawn(async move {
                        if order.command == "impostor" {
                            let mut other = StandIn::connect(&attach, &"0".repeat(64)).await;
                            other.say(Channel::Output, "forged").await;
                            assert!(other.hear().await.is_none() && other.gone);
                        }
                        StandIn::connect(&attach, &token).await.play(&order).await;
                    });
                    continue;
                }
            };
            store.commit(txn).await.expect("said");
        }
    }
}
