//! One-off processes: where they are placed, what may go wrong with them, and the two ways to be their
//! other end: for v1's clients, who want all output at once, and for a websocket, on which frames are
//! passed on (see [`crate::session`]).

use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tracing::{info, warn};
use uuid::Uuid;

use super::{Shared, attach::Line, auth, error::ApiError, fleet};
use crate::{
    model::{
        App, AppName, Assignment, Config, Desired, MachineId, MachineState, Phase, ProcessName,
        ProcessState, ProcessType, ReleaseNumber, SCHEMA, Work,
    },
    ops::{OpsError, change},
    plan::schedule::Resources,
    seal::order_context,
    session::{Ask, Channel, Frame, Link, Order, Status},
    store::{CommitError, Key, Txn, Update, keys},
};

/// Most output that is kept for a client that wants all of it at once, in bytes.
pub(super) const MAX_OUTPUT: usize = 16 << 20;

/// How long its end may take to be written when the store has trouble.
const CLEANUP_LIMIT: Duration = Duration::from_secs(30);

/// How long a host may be absent before it counts as lost: an agent that is restarted registers anew.
const ABSENCE: Duration = Duration::from_secs(5);

/// A unit that has ended: so long its last words may be on their way.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How often another one-off may be given the name in the same moment.
const TRIES: u32 = 8;

/// How often a client is asked whether it is there.
const PING: Duration = Duration::from_secs(10);

/// A client that says nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(35);

/// How long a client may take to take a frame: it reads them as they come, whatever becomes of them.
const SEND_LIMIT: Duration = Duration::from_secs(30);

/// What a one-off process is of.
pub(super) struct Target {
    pub(super) app: AppName,
    version: ReleaseNumber,
    config: Config,
}

/// A process that was placed.
pub(super) struct Placed {
    machine: MachineId,
    hostname: String,
    pub(super) name: ProcessName,
    uuid: Uuid,
    key: Key<Assignment>,
}

/// What a client that gets everything at once is told.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) exit_code: i32,
    pub(super) output: Vec<u8>,
}

/// How a client on a websocket left.
enum Left {
    /// It has heard how the process ended.
    Satisfied,
    /// It went before.
    Gone(&'static str),
}

impl Shared {
    /// The active release of an app, if it has something that can be run.
    pub(super) async fn target(&self, name: AppName, app: &App) -> Result<Target, ApiError> {
        let found = change::contents(&self.store, &name, app.active).await?;
        let (_, config, build) = found.ok_or(ApiError::NotFound)?;
        if build.is_none() {
            return Err(OpsError::NoBuild.into());
        }
        Ok(Target {
            app: name,
            version: app.active,
            config,
        })
    }

    /// Writes the assignment, on the host that has the most room. With a token, this controller waits
    /// for the process; without, it is detached.
    pub(super) async fn place(
        &self,
        target: &Target,
        ask: Ask,
        token: Option<String>,
    ) -> Result<Placed, ApiError> {
        let Target {
            app,
            version,
            config,
        } = target;
        let kind = ProcessType::run();
        let needs = Resources {
            memory_bytes: config.memory_bytes(&kind),
            cpu_shares: config.cpu_shares(&kind).into(),
        };
        let attach = token.as_ref().map(|_| self.attach.address().to_string());
        let order = Order {
            command: ask.command,
            terminal: ask.terminal,
            input: ask.input,
            token,
        };
        let order = serde_json::to_vec(&order).map_err(ApiError::internal)?;
        let mut tries = 0;
        loop {
            let fleet = fleet::read(&self.store).await?;
            let machine = fleet.place(needs, &config.tags, &fleet::placing(&self.store).await?)?;
            let number = fleet.next_run(app);
            let name = ProcessName::first(app.clone(), *version, kind.clone(), number);
            let key = keys::assignment(&machine.id, &name.to_string());
            let uuid = Uuid::new_v4();
            let assignment = Assignment {
                schema: SCHEMA,
                uuid,
                desired: Desired::Run,
                work: Work::Run {
                    order: Some(self.key.seal(&order_context(uuid), &order)),
                    attach: attach.clone(),
                    memory_bytes: needs.memory_bytes,
                    cpu_shares: config.cpu_shares(&kind),
                },
            };
            // Only on a host that is there, and for an app that is not gone meanwhile.
            let txn = Txn::new()
                .absent(&key)
                .present(&keys::machine(&machine.id))
                .present(&keys::app(app))
                .put(&key, &assignment);
            match self.store.commit(txn).await {
                Err(CommitError::Conflict) if tries < TRIES => tries += 1,
                result => {
                    result?;
                    return Ok(Placed {
                        machine: machine.id.clone(),
                        hostname: machine.hostname.clone(),
                        name,
                        uuid,
                        key,
                    });
                }
            }
        }
    }

    /// A token that nobody can guess, and the line on which its process will come in.
    pub(super) fn line(&self) -> Result<(String, Line), ApiError> {
        let token = auth::hex(&auth::random::<32>()?);
        let line = self.attach.expect(token.clone())?;
        Ok((token, line))
    }

    /// Runs a command for a client that wants everything at once. Ends when `gone` does.
    pub(super) async fn collect(
        &self,
        target: &Target,
        ask: Ask,
        gone: impl Future<Output = ()>,
    ) -> Result<Ended, ApiError> {
        let (token, mut line) = self.line()?;
        let placed = self.place(target, ask, Some(token)).await?;
        let result = tokio::select! {
            biased;
            ended = collect(&mut line) => ended,
            trouble = self.trouble(&placed) => Err(trouble),
            () = gone => Err(ApiError::Unavailable("The client went away.".into())),
            () = self.attach.closing() => Err(closing()),
        };
        self.remove(&placed).await;
        result
    }

    /// Runs a command for a client on a websocket.
    pub(super) async fn session(
        &self,
        target: &Target,
        ask: Ask,
        socket: &mut WebSocket,
    ) -> Result<(), ApiError> {
        let (token, mut line) = self.line()?;
        let is_terminal = ask.terminal.is_some();
        let placed = self.place(target, ask, Some(token)).await?;
        info!(process = %placed.name, host = placed.hostname, is_terminal, "session begins");
        let begun = Instant::now();
        let result = tokio::select! {
            biased;
            left = relay(socket, &mut line) => Ok(left),
            trouble = self.trouble(&placed) => Err(trouble),
            () = self.attach.closing() => Err(closing()),
        };
        let secs = begun.elapsed().as_secs();
        match &result {
            Ok(Left::Satisfied) => info!(process = %placed.name, secs, "session ended"),
            Ok(Left::Gone(why)) => {
                info!(process = %placed.name, secs, why, "client gone: its process is ended");
            }
            Err(error) => warn!(process = %placed.name, secs, %error, "session broken off"),
        }
        // It is the client that waits for what comes now; the assignment may go meanwhile.
        self.remove(&placed).await;
        result.map(|_| ())
    }

    /// Waits until it is clear that a process will never say how it ended: its host is lost, can't
    /// run it, or says that it is over.
    async fn trouble(&self, placed: &Placed) -> ApiError {
        let (host, machine) = (&placed.hostname, keys::machine(&placed.machine));
        let state = keys::state(&placed.machine);
        let mut presence = self.store.follow(machine.as_str());
        let mut reports = self.store.follow(state.as_str());
        let mut order = self.store.follow(placed.key.as_str());
        // Until when an absent host may come back.
        let mut lost_at: Option<Instant> = None;
        loop {
            let lost = async {
                match lost_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let why = tokio::select! {
                update = presence.next() => {
                    match is_there(&update, machine.as_str()) {
                        Some(true) => lost_at = None,
                        Some(false) => lost_at = lost_at.or(Some(Instant::now() + ABSENCE)),
                        None => {}
                    }
                    continue;
                }
                update = order.next() => {
                    if is_there(&update, placed.key.as_str()) != Some(false) {
                        continue;
                    }
                    "The command was taken away from its host; was the app destroyed?".to_owned()
                }
                () = lost => format!(
                    "The host {host} was lost while it ran the command; \
                     whether it was carried out is not known."
                ),
                update = reports.next() => {
                    let Some(report) = report_of(&update, state.as_str(), placed) else { continue };
                    let why = report.reason.as_deref().unwrap_or("no reason given");
                    if report.phase == Phase::Error {
                        format!("{host} can't run it: {why}")
                    } else if report.ready {
                        sleep(LAST_WORDS).await;
                        format!("The process is over on {host} and did not deliver its output: {why}.")
                    } else {
                        continue;
                    }
                }
            };
            return ApiError::Unavailable(why);
        }
    }

    /// Takes the assignment away: the agent stops what still runs.
    async fn remove(&self, placed: &Placed) {
        let commit = self.store.commit(Txn::new().delete(&placed.key));
        match timeout(CLEANUP_LIMIT, commit).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => warn!(process = %placed.name, %error, "one-off process not removed"),
            Err(_) => warn!(process = %placed.name, "one-off process not removed in time"),
        }
    }
}

/// What an update says of a key: that it is there, that it is gone, or nothing.
fn is_there(update: &Update, key: &str) -> Option<bool> {
    let mut ours = update.changes.iter().filter(|change| change.key == key);
    match ours.next_back() {
        Some(change) => Some(change.entry.is_some()),
        // In its first update a key that is not there is not mentioned.
        None => update.first.then_some(false),
    }
}

/// What a host says of a process, if an update of its state does.
fn report_of(update: &Update, state: &str, placed: &Placed) -> Option<ProcessState> {
    let name = placed.name.to_string();
    update
        .changes
        .iter()
        .filter(|change| change.key == state)
        .filter_map(|change| change.entry.as_ref()?.decode::<MachineState>().ok())
        .filter_map(|mut report| report.processes.remove(&name))
        .find(|report| report.uuid == placed.uuid)
}

fn closing() -> ApiError {
    ApiError::Unavailable(
        "The controller is being stopped, and the command with it; run it again.".into(),
    )
}

/// Takes all that a process says, until it has ended.
async fn collect(line: &mut Line) -> Result<Ended, ApiError> {
    let mut link = Link::answering();
    let mut output = Vec::new();
    let mut cut = 0;
    loop {
        while let Some(frame) = link.next_frame() {
            line.say(&frame).await;
        }
        let frame = line.hear().await;
        let Some(part) = link.hear(frame).map_err(ApiError::internal)? else {
            continue;
        };
        link.take();
        match part.channel {
            Channel::Output | Channel::Errors => {
                let room = MAX_OUTPUT - output.len();
                let kept = part.bytes.len().min(room);
                output.extend_from_slice(&part.bytes[..kept]);
                cut += part.bytes.len() - kept;
            }
            Channel::Status => {
                while let Some(frame) = link.next_frame() {
                    line.say(&frame).await;
                }
                let status = serde_json::from_slice(&part.bytes).map_err(ApiError::internal)?;
                return said(status, output, cut);
            }
            Channel::Input | Channel::Size | Channel::Signal => {}
        }
    }
}

/// The answer for a client that gets everything at once.
fn said(status: Status, mut output: Vec<u8>, cut: usize) -> Result<Ended, ApiError> {
    match status {
        Status::Failed { why } => Err(ApiError::Unavailable(why)),
        Status::Ended { code, remark } => {
            let mut say =
                |what: &str| output.extend_from_slice(format!("\n[deis: {what}]\n").as_bytes());
            if cut > 0 {
                say(&format!(
                    "{cut} more bytes of output are not kept: {} MiB at most are",
                    MAX_OUTPUT >> 20
                ));
            }
            if let Some(remark) = remark {
                say(&remark);
            }
            Ok(Ended {
                exit_code: code,
                output,
            })
        }
    }
}

/// Passes frames on between a client and a process, until the client leaves.
async fn relay(socket: &mut WebSocket, line: &mut Line) -> Left {
    let mut ping = interval(PING);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    let mut has_ended = false;
    let left = |has_ended, why| {
        if has_ended {
            Left::Satisfied
        } else {
            Left::Gone(why)
        }
    };
    loop {
        let message = tokio::select! {
            frame = line.hear() => {
                has_ended |= matches!(&frame, Frame::Part(part) if part.channel == Channel::Status);
                Message::Binary(frame.encode().into())
            }
            message = socket.recv() => {
                heard = Instant::now();
                match message {
                    Some(Ok(Message::Binary(bytes))) => match Frame::decode(&bytes) {
                        // These are between us and the sidecar.
                        Ok(Frame::Ping | Frame::Pong | Frame::Gone) => {}
                        Ok(frame) => line.say(&frame).await,
                        Err(_) => return left(has_ended, "it speaks another language"),
                    },
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(Message::Text(_))) => return left(has_ended, "it speaks another language"),
                    Some(Ok(Message::Close(_))) | None => return left(has_ended, "it closed the connection"),
                    Some(Err(_)) => return left(has_ended, "its connection broke"),
                }
                continue;
            }
            _ = ping.tick() => {
                if heard.elapsed() > SILENCE {
                    return left(has_ended, "it gives no sign of life");
                }
                Message::Ping(bytes::Bytes::new())
            }
        };
        match timeout(SEND_LIMIT, socket.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return left(has_ended, "its connection broke"),
            Err(_) => return left(has_ended, "it takes nothing"),
        }
    }
}
