//! A host's service manager and container runtime: jobs take their time, processes behave as their
//! build says, announcers tell the agent of the moment. Units outlive agents, and die with the host.

mod once;
pub(super) mod raw;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};
use uuid::Uuid;

use self::raw::RawUnits;
use super::{
    World,
    sky::{Node, Role, lock},
};
use crate::{
    agent::{
        lease::FENCE_UNIT,
        paths::Paths,
        runtime::{ImageError, Runtime},
        socket::Word,
    },
    model::ProcessName,
    outside,
    sidecar::fence,
    systemd::{Active, Exit, Inbox, UnitChange, UnitError, UnitStatus, Units},
};

/// systemd's delay before it starts a crashed unit again.
const RESTART_DELAY: Duration = Duration::from_secs(1);

/// How the processes of a build behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Temper {
    Good,
    /// Up, and down again soon, again and again.
    Crashes,
    /// Its start fails at once, again and again.
    FailsToStart,
    /// Up, and never healthy.
    Hangs,
}

impl Temper {
    /// As it stands in the build's commit.
    pub fn parse(text: &str) -> Self {
        match text {
            "crashes" => Self::Crashes,
            "fails" => Self::FailsToStart,
            "hangs" => Self::Hangs,
            _ => Self::Good,
        }
    }

    pub const fn text(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Crashes => "crashes",
            Self::FailsToStart => "fails",
            Self::Hangs => "hangs",
        }
    }
}

#[derive(Debug)]
struct Unit {
    process: ProcessName,
    uuid: Uuid,
    status: UnitStatus,
    /// Counts what happens to it: whoever waited for an older one is too late.
    turn: u64,
    /// The announcer's last word.
    word: Option<bool>,
    /// Grows whenever a new main process comes up.
    run: u64,
}

#[derive(Default)]
struct State {
    units: BTreeMap<String, Unit>,
    words: Option<mpsc::Sender<Word>>,
    /// The power is off: nothing happens any more.
    off: bool,
    /// The host's fence stands.
    guarded: bool,
    turns: u64,
    raw: RawUnits,
}

struct Shared {
    world: Arc<World>,
    host: usize,
    paths: Paths,
    inbox: Inbox,
    state: Mutex<State>,
}

/// The service manager of one boot of a host; clones share it.
#[derive(Clone)]
pub(super) struct SimUnits(Arc<Shared>);

impl SimUnits {
    pub fn boot(world: &Arc<World>, host: usize, paths: Paths) -> Self {
        Self(Arc::new(Shared {
            world: Arc::clone(world),
            host,
            paths,
            inbox: Inbox::default(),
            state: Mutex::default(),
        }))
    }

    /// The power goes: all that ran is gone.
    pub fn power_off(&self) {
        let mut state = lock(&self.0.state);
        state.off = true;
        state.words = None;
        let units = std::mem::take(&mut state.units);
        state.raw = RawUnits::default();
        drop(state);
        for unit in units.into_values() {
            self.0.world.judge.down(self.0.host, &unit.process);
        }
    }

    /// An agent has opened its socket: announcers connect again and repeat their last word.
    pub fn listen(&self, words: mpsc::Sender<Word>) {
        let mut state = lock(&self.0.state);
        state.words = Some(words);
        let names: Vec<String> = state.units.keys().cloned().collect();
        drop(state);
        for name in names {
            let (units, pause) = (self.clone(), self.0.world.dice.time(0, 1000));
            tokio::spawn(async move {
                sleep(pause).await;
                units.tell(&name);
            });
        }
    }

    /// The announcer of a unit says what it last found out.
    fn tell(&self, name: &str) {
        let state = lock(&self.0.state);
        let Some(unit) = state.units.get(name) else {
            return;
        };
        let (Some(healthy), Some(words)) = (unit.word, &state.words) else {
            return;
        };
        let _ = words.try_send(Word {
            unit: unit.process.to_string(),
            uuid: unit.uuid,
            healthy,
            reason: if healthy { "" } else { "it does not answer" }.into(),
        });
    }

    /// Names of the units that are up.
    pub fn up(&self) -> Vec<String> {
        let state = lock(&self.0.state);
        let up = state.units.iter();
        up.filter(|(_, unit)| unit.status.active == Active::Active)
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// A process dies by itself; systemd is about to start it again.
    pub fn crash(&self, name: &str) {
        if is_one_off(name) {
            return self.end_once(name, None, 1);
        }
        let Some(turn) = self.change(name, None, |unit| {
            unit.status.active = Active::AutoRestart;
            unit.status.restarts += 1;
            unit.status.exit = Exit {
                result: "exit-code".into(),
                code: 1,
                status: 1,
            };
            unit.word = None;
        }) else {
            return;
        };
        let (units, name) = (self.clone(), name.to_owned());
        tokio::spawn(async move {
            sleep(RESTART_DELAY).await;
            units.come_up(&name, turn).await;
        });
    }

    /// A process stops or begins to answer.
    pub fn ail(&self, name: &str, healthy: bool) {
        let mut state = lock(&self.0.state);
        let Some(unit) = state.units.get_mut(name) else {
            return;
        };
        if unit.status.active != Active::Active
            || unit.word == Some(healthy)
            || unit.process.kind.is_one_off()
        {
            return;
        }
        unit.word = Some(healthy);
        let process = unit.process.clone();
        drop(state);
        self.0.world.judge.healthy(self.0.host, &process, healthy);
        self.tell(name);
    }

    /// What ails because of a mishap gets well.
    pub fn recover(&self, name: &str) {
        let process = {
            let state = lock(&self.0.state);
            state.units.get(name).map(|unit| unit.process.clone())
        };
        if process.is_some_and(|process| self.0.world.judge.temper(&process) == Temper::Good) {
            self.ail(name, true);
        }
    }

    /// Changes a unit, if it is still at that turn, and tells the agent; gives the new turn.
    fn change(&self, name: &str, turn: Option<u64>, change: impl FnOnce(&mut Unit)) -> Option<u64> {
        let mut state = lock(&self.0.state);
        let state = &mut *state;
        let unit = state.units.get_mut(name)?;
        if turn.is_some_and(|turn| unit.turn != turn) {
            return None;
        }
        state.turns += 1;
        unit.turn = state.turns;
        let was = unit.status.active;
        change(unit);
        let judge = &self.0.world.judge;
        match (was, unit.status.active) {
            (Active::Active, Active::Active) => {}
            (_, Active::Active) => judge.up(self.0.host, &unit.process, unit.uuid),
            (Active::Active, Active::Deactivating) => {
                judge.stopping(self.0.host, &unit.process);
            }
            (Active::Active, _) => judge.down(self.0.host, &unit.process),
            _ => {}
        }
        let told = UnitChange {
            active: Some(unit.status.active),
            exit: Some(unit.status.exit.clone()),
            restarts: Some(unit.status.restarts),
            ..UnitChange::default()
        };
        self.0.inbox.change(name, told);
        Some(unit.turn)
    }

    /// The main process starts; gives whether it got up.
    async fn come_up(&self, name: &str, turn: u64) -> bool {
        let world = &self.0.world;
        let Some(turn) = self.change(name, Some(turn), |unit| {
            unit.status.active = Active::Activating;
        }) else {
            return false;
        };
        sleep(world.dice.long_tail(30, 2500)).await;
        let temper = {
            let state = lock(&self.0.state);
            match state.units.get(name) {
                Some(unit) => world.judge.temper(&unit.process),
                None => return false,
            }
        };
        if temper == Temper::FailsToStart {
            let here = lock(&self.0.state)
                .units
                .get(name)
                .is_some_and(|unit| unit.turn == turn);
            if here {
                self.crash(name);
            }
            return false;
        }
        let mut run = 0;
        let Some(turn) = self.change(name, Some(turn), |unit| {
            unit.status.active = Active::Active;
            unit.run += 1;
            run = unit.run;
        }) else {
            return false;
        };
        let (units, name) = (self.clone(), name.to_owned());
        tokio::spawn(async move { units.live(&name, turn, run, temper).await });
        true
    }

    /// What becomes of a process that has come up.
    async fn live(&self, name: &str, turn: u64, run: u64, temper: Temper) {
        let dice = &self.0.world.dice;
        if temper == Temper::Crashes {
            sleep(dice.long_tail(100, 3000)).await;
            let still = lock(&self.0.state)
                .units
                .get(name)
                .is_some_and(|unit| unit.turn == turn);
            if still {
                self.crash(name);
            }
            return;
        }
        sleep(dice.long_tail(1000, 8000)).await;
        let healthy = temper == Temper::Good;
        let mut state = lock(&self.0.state);
        let Some(unit) = state
            .units
            .get_mut(name)
            .filter(|unit| unit.run == run && unit.status.active == Active::Active)
        else {
            return;
        };
        unit.word = Some(healthy);
        let process = unit.process.clone();
        drop(state);
        self.0.world.judge.healthy(self.0.host, &process, healthy);
        self.tell(name);
    }

    async fn start_job(&self, name: &str, process: ProcessName) -> Result<(), UnitError> {
        let failed = |result: &str| UnitError::Job {
            call: "start",
            unit: name.to_owned(),
            result: result.to_owned(),
        };
        let text = std::fs::read_to_string(self.0.paths.unit(name))
            .map_err(|_| failed("no such unit file"))?;
        let field = |key: &str| {
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        };
        let uuid = field("X-Deis-Uuid").and_then(|uuid| uuid.parse().ok());
        let Some(uuid) = uuid else {
            return Err(failed("its file has no uuid"));
        };
        let turn = {
            let mut state = lock(&self.0.state);
            if state.off {
                return Err(UnitError::NoBus);
            }
            if let Some(unit) = state.units.get(name) {
                match unit.status.active {
                    Active::Active => return Ok(()),
                    Active::Inactive | Active::Failed => {}
                    Active::Activating | Active::AutoRestart | Active::Deactivating => {
                        return Err(failed("another job is under way"));
                    }
                }
            }
            state.turns += 1;
            let turn = state.turns;
            let unit = Unit {
                process: process.clone(),
                uuid,
                status: UnitStatus::default(),
                turn,
                word: None,
                run: 0,
            };
            state.units.insert(name.to_owned(), unit);
            turn
        };
        self.0.world.judge.starts(self.0.host, &process, uuid);
        if self.0.world.sky.dies_at_start() {
            self.0.world.kill(Node {
                host: self.0.host,
                role: Role::Agent,
            });
        }
        let is_up = if process.kind.is_one_off() {
            self.run_once(name, turn).await
        } else {
            self.come_up(name, turn).await
        };
        if is_up { Ok(()) } else { Err(failed("failed")) }
    }

    async fn stop_job(&self, name: &str) {
        let (host, world) = (self.0.host, &self.0.world);
        let told = {
            let state = lock(&self.0.state);
            let unit = state.units.get(name);
            unit.map(|unit| (unit.process.clone(), unit.uuid, unit.status.active))
        };
        let Some((process, uuid, active)) = told else {
            return;
        };
        if active == Active::Deactivating {
            // One job is enough: this one ends with it.
            let stopping = || {
                let state = lock(&self.0.state);
                let unit = state.units.get(name);
                unit.is_some_and(|unit| unit.status.active == Active::Deactivating)
            };
            while stopping() {
                sleep(Duration::from_millis(50)).await;
            }
            return;
        }
        let lease_is_out = self
            .fence(&self.0.paths)
            .is_some_and(|(names, _)| names.iter().any(|name| *name == process.to_string()));
        world.stops(host, &process, uuid, lease_is_out);
        let Some(turn) = self.change(name, None, |unit| {
            unit.status.active = Active::Deactivating;
            unit.word = None;
        }) else {
            return;
        };
        sleep(world.sky.stopping()).await;
        if self
            .change(name, Some(turn), |unit| {
                unit.status.active = Active::Inactive;
            })
            .is_some()
        {
            lock(&self.0.state).units.remove(name);
            world.judge.gone(host, &process);
        }
    }

    /// What the host's fence would stop now, and when it would look again: by the fence's own eyes.
    fn fence(&self, paths: &Paths) -> Option<(Vec<String>, Duration)> {
        let options = fence::Options {
            lease: paths.lease(),
            fenced: paths.fenced(),
        };
        fence::look(&options, outside::uptime().ok()?).ok()
    }

    /// The host's fence, which lives until the power goes.
    async fn stand_guard(self) {
        loop {
            let (names, wait) = match self.fence(&self.0.paths) {
                Some(look) => look,
                None => (Vec::new(), Duration::from_secs(1)),
            };
            for name in names {
                let units = self.clone();
                // It only tells systemd to.
                tokio::spawn(async move { units.stop_job(&format!("{name}.service")).await });
            }
            sleep(wait).await;
            if lock(&self.0.state).off {
                return;
            }
        }
    }

    /// A job goes on without whoever asked for it.
    async fn job<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let (done, end) = oneshot::channel();
        tokio::spawn(async move {
            let _ = done.send(work.await);
        });
        match end.await {
            Ok(result) => result,
            Err(_) => std::future::pending().await,
        }
    }
}

fn process_of(unit: &str) -> Option<ProcessName> {
    unit.strip_suffix(".service")?.parse().ok()
}

fn is_one_off(unit: &str) -> bool {
    process_of(unit).is_some_and(|process| process.kind.is_one_off())
}

impl Units for SimUnits {
    async fn start(&self, unit: &str) -> Result<UnitStatus, UnitError> {
        sleep(self.0.world.dice.time(1, 10)).await;
        if let Some(process) = process_of(unit) {
            let (units, name) = (self.clone(), unit.to_owned());
            self.job(async move { units.start_job(&name, process).await })
                .await?;
        } else if unit == FENCE_UNIT {
            if !std::mem::replace(&mut lock(&self.0.state).guarded, true) {
                tokio::spawn(self.clone().stand_guard());
            }
        } else {
            let (units, name) = (self.clone(), unit.to_owned());
            self.job(async move { units.start_raw(&name).await })
                .await?;
        }
        self.status(unit).await
    }

    async fn load(&self, unit: &str) -> Result<UnitStatus, UnitError> {
        self.status(unit).await
    }

    async fn enable(&self, _: &str) -> Result<bool, UnitError> {
        Ok(false)
    }

    async fn disable(&self, _: &str) -> Result<bool, UnitError> {
        Ok(false)
    }

    async fn stop(&self, unit: &str) -> Result<(), UnitError> {
        sleep(self.0.world.dice.time(1, 5)).await;
        let (units, name) = (self.clone(), unit.to_owned());
        self.job(async move {
            if process_of(&name).is_some() {
                units.stop_job(&name).await;
            } else {
                units.stop_raw(&name).await;
            }
        })
        .await;
        Ok(())
    }

    async fn status(&self, unit: &str) -> Result<UnitStatus, UnitError> {
        sleep(self.0.world.dice.time(1, 3)).await;
        if process_of(unit).is_none() {
            return Ok(self.raw_status(unit));
        }
        let state = lock(&self.0.state);
        Ok(state
            .units
            .get(unit)
            .map(|unit| unit.status.clone())
            .unwrap_or_default())
    }

    async fn reload(&self) -> Result<(), UnitError> {
        self.reload_raw();
        Ok(())
    }

    async fn reset_failed(&self, _: &str) -> Result<(), UnitError> {
        Ok(())
    }

    async fn last_lines(&self, _: &str) -> Vec<String> {
        vec!["boom".into()]
    }

    fn inbox(&self) -> &Inbox {
        &self.0.inbox
    }
}

/// Every image is there sooner or later.
#[derive(Clone)]
pub(super) struct SimRuntime(pub Arc<World>);

impl Runtime for SimRuntime {
    async fn ensure_image(&self, _: &str) -> Result<(), ImageError> {
        sleep(self.0.dice.long_tail(1, 6000)).await;
        if self.0.is_rough() && self.0.dice.falls(300) {
            return Err(ImageError::NoRegistry);
        }
        Ok(())
    }

    async fn remove(&self, _: &str) -> Result<(), ImageError> {
        Ok(())
    }

    async fn containers(&self) -> Result<Vec<String>, ImageError> {
        Ok(Vec::new())
    }

    async fn images(&self) -> Result<Vec<String>, ImageError> {
        Ok(Vec::new())
    }

    async fn remove_image(&self, _: &str) -> Result<(), ImageError> {
        Ok(())
    }

    fn port_is_free(&self, _: SocketAddr) -> bool {
        true
    }
}
