//! `apps/<app>/run`: a command in a process of its own, with the app's image and config.

use std::time::Duration;

use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::header;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    api::{valid, wire},
    controller::{
        self, Shared,
        access::Wish,
        attach::Ended,
        auth,
        error::ApiError,
        extract::{Body, By, Caller},
        fleet,
    },
    model::{
        Action, AppName, Assignment, Desired, MachineId, MachineState, Phase, ProcessName,
        ProcessType, ReleaseNumber, SCHEMA, Work,
    },
    ops::{OpsError, audit, change},
    store::{Key, Txn, keys},
};

/// How long a command may take.
const LIMIT: Duration = Duration::from_secs(1200);

/// How long its end may take to be written when the store has trouble.
const CLEANUP_LIMIT: Duration = Duration::from_secs(30);

pub(super) async fn run(
    State(ctl): State<controller::State>,
    Caller(user): Caller,
    By(by): By,
    Path(app): Path<String>,
    Body(fields): Body,
) -> Result<Response, ApiError> {
    let (name, app) = ctl.app(&user, &app, Wish::Use).await?;
    let command = valid::command(&fields)?;
    let note = by.note(Action::Run, program(&command));
    audit::commit(&ctl.store, &name, Txn::new(), note).await?;
    info!(app = %name, user = %user.username, "one-off process asked for");
    // A task of its own: it cleans up also when the client goes away, which drops this handler.
    let gone = CancellationToken::new();
    let _guard = gone.clone().drop_guard();
    let task = {
        let ctl = ctl.clone();
        async move { ctl.one_off(&name, app.active, command, gone).await }
    };
    let ended = ctl.tasks.spawn(task).await.map_err(ApiError::internal)??;
    let output = String::from_utf8_lossy(&ended.output).into_owned();
    let reply = serde_json::to_string(&wire::RunReply(ended.exit_code, output))
        .map_err(ApiError::internal)?;
    // v1's content type, for a body that is JSON.
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], reply).into_response())
}

/// What the audit trail says of a command: the program. The rest may hold what is nobody's business.
fn program(command: &str) -> String {
    let mut words = command.split_whitespace();
    let first = words.find(|word| !word.contains('='));
    let first: String = first.unwrap_or("…").chars().take(60).collect();
    match words.next() {
        Some(_) => format!("{first} …"),
        None => first,
    }
}

/// A process that was placed.
struct Placed {
    machine: MachineId,
    hostname: String,
    name: ProcessName,
    uuid: Uuid,
    key: Key<Assignment>,
}

impl Shared {
    async fn one_off(
        &self,
        app: &AppName,
        version: ReleaseNumber,
        command: String,
        gone: CancellationToken,
    ) -> Result<Ended, ApiError> {
        let token = auth::hex(&auth::random::<32>()?);
        let ended = self.attach.expect(token.clone())?;
        let placed = self.place(app, version, command, token).await?;
        let result = tokio::select! {
            ended = ended => ended.map_err(ApiError::internal),
            trouble = self.trouble(&placed) => Err(trouble),
            () = gone.cancelled() => Err(ApiError::Unavailable("The client went away.".into())),
            () = tokio::time::sleep(LIMIT) => Err(ApiError::Unavailable(format!(
                "The command took longer than {} s and was ended.", LIMIT.as_secs()
            ))),
        };
        self.remove(&placed).await;
        result
    }

    /// Writes the assignment, on the host that has the most room.
    async fn place(
        &self,
        app: &AppName,
        version: ReleaseNumber,
        command: String,
        token: String,
    ) -> Result<Placed, ApiError> {
        let found = change::contents(&self.store, app, version).await?;
        let (_, config, build) = found.ok_or(ApiError::NotFound)?;
        if build.is_none() {
            return Err(OpsError::NoBuild.into());
        }
        let kind = ProcessType::run();
        let memory_bytes = config.memory_bytes(&kind);
        let fleet = fleet::read(&self.store).await?;
        let machine = fleet.place(memory_bytes, &config.tags)?;
        let name = ProcessName::first(app.clone(), version, kind, fleet.next_run(app));
        let key = keys::assignment(&machine.id, &name.to_string());
        let uuid = Uuid::new_v4();
        let assignment = Assignment {
            schema: SCHEMA,
            uuid,
            desired: Desired::Run,
            work: Work::Run {
                command,
                attach: self.attach.address().to_string(),
                token,
                memory_bytes,
            },
        };
        // Only on a host that is there, and for an app that is not gone meanwhile.
        let txn = Txn::new()
            .absent(&key)
            .present(&keys::machine(&machine.id))
            .present(&keys::app(app))
            .put(&key, &assignment);
        self.store.commit(txn).await?;
        Ok(Placed {
            machine: machine.id.clone(),
            hostname: machine.hostname.clone(),
            name,
            uuid,
            key,
        })
    }

    /// Waits until it is clear that a process will never report: its host is lost, or can't run it.
    async fn trouble(&self, placed: &Placed) -> ApiError {
        let (host, machine) = (&placed.hostname, keys::machine(&placed.machine));
        let state = keys::state(&placed.machine);
        let mut presence = self.store.follow(machine.as_str());
        let mut reports = self.store.follow(state.as_str());
        loop {
            tokio::select! {
                update = presence.next() => {
                    let lost = update.changes.iter().any(|change| {
                        change.key == machine.as_str() && change.entry.is_none()
                    });
                    // In its first update a key that is not there is not mentioned.
                    let absent = update.first && update.changes.is_empty();
                    if lost || absent {
                        return ApiError::Unavailable(format!(
                            "The host {host} was lost while it ran the command; \
                             whether it was carried out is not known."
                        ));
                    }
                }
                update = reports.next() => {
                    let name = placed.name.to_string();
                    let failed = update
                        .changes
                        .iter()
                        .filter(|change| change.key == state.as_str())
                        .filter_map(|change| change.entry.as_ref()?.decode::<MachineState>().ok())
                        .filter_map(|mut report| report.processes.remove(&name))
                        .find(|report| report.uuid == placed.uuid && report.phase == Phase::Error);
                    if let Some(report) = failed {
                        let why = report.reason.unwrap_or_else(|| "no reason given".to_owned());
                        return ApiError::Unavailable(format!("{host} can't run it: {why}"));
                    }
                }
            }
        }
    }

    /// Takes the assignment away: the agent stops what still runs.
    async fn remove(&self, placed: &Placed) {
        let commit = self.store.commit(Txn::new().delete(&placed.key));
        match tokio::time::timeout(CLEANUP_LIMIT, commit).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => warn!(process = %placed.name, %error, "one-off process not removed"),
            Err(_) => warn!(process = %placed.name, "one-off process not removed in time"),
        }
    }
}
