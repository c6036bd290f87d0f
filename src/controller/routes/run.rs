//! `apps/<app>/run`: a command in a process of its own, with the app's image and config. POST answers
//! when it has ended, with all of its output, as v1 did; a websocket is a [`crate::session`].

use std::{convert::Infallible, time::Duration};

use axum::{
    body::{Body as Payload, Bytes},
    extract::{
        Path, State,
        ws::{Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    response::{IntoResponse, Response},
};
use http::header;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    api::{valid, wire},
    controller::{
        self,
        access::Wish,
        error::ApiError,
        extract::{Body, By, Caller},
        oneoff::{Ended, Target},
    },
    model::{Action, AppName},
    ops::audit::{self, Actor},
    session::{Ask, PROTOCOL, Status, frame::MAX_FRAME},
    store::Txn,
};

/// An answer that takes longer begins without its end being known: whoever stands between us and the
/// client (a router, a proxy) must not take it for one that never comes.
const PATIENCE: Duration = Duration::from_secs(300);

/// How often a blank is sent from then on; JSON may begin with any number of them.
const BLANK: Duration = Duration::from_secs(30);

/// How long a client may take to say what it wants run.
const ASK_LIMIT: Duration = Duration::from_secs(30);

/// How long a client may take to hear of an end.
const GOODBYE_LIMIT: Duration = Duration::from_secs(5);

/// Exit code that stands for a failure of the platform where nothing else can.
const FAILED: i32 = 255;

/// Largest first message: a command line and little else.
const MAX_ASK: usize = 64 << 10;

type Answer = Result<Ended, ApiError>;

/// `POST apps/<app>/run`
pub(super) async fn run(
    State(ctl): State<controller::State>,
    Caller(user): Caller,
    By(by): By,
    Path(app): Path<String>,
    Body(fields): Body,
) -> Result<Response, ApiError> {
    let (name, app) = ctl.app(&user, &app, Wish::Use).await?;
    let command = valid::command(&fields)?;
    let is_detached = valid::detach(&fields)?;
    info!(app = %name, user = %user.username, is_detached, "one-off process asked for");
    ctl.note_run(&name, &by, &command).await?;
    let ask = Ask {
        command,
        terminal: None,
        input: false,
    };
    let target = ctl.target(name, &app).await?;
    if is_detached {
        let placed = ctl.place(&target, ask, None).await?;
        return text(reply(0, placed.name.id().to_string()));
    }
    // A task of its own: it cleans up also when the client goes away, which drops this handler.
    let gone = CancellationToken::new();
    let guard = gone.clone().drop_guard();
    let task = {
        let ctl = ctl.clone();
        async move { ctl.collect(&target, ask, gone.cancelled()).await }
    };
    let mut task = ctl.tasks.spawn(task);
    if let Ok(ended) = timeout(PATIENCE, &mut task).await {
        let ended = ended.map_err(ApiError::internal)??;
        return text(reply(ended.exit_code, lossy(&ended.output)));
    }
    let ended = async move {
        let answer: Answer = task
            .await
            .unwrap_or_else(|error| Err(ApiError::internal(error)));
        drop(guard);
        match answer {
            Ok(ended) => reply(ended.exit_code, lossy(&ended.output)),
            // The status line is long gone.
            Err(error) => reply(FAILED, format!("[deis: {error}]\n")),
        }
    };
    text(Payload::from_stream(blanks_until(ended)))
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

impl controller::Shared {
    /// Writes into the app's audit trail that somebody runs a command.
    async fn note_run(&self, app: &AppName, by: &Actor, command: &str) -> Result<(), ApiError> {
        let note = by.note(Action::Run, program(command));
        audit::commit(&self.store, app, Txn::new(), note).await?;
        Ok(())
    }
}

/// Blanks, until the answer is there.
fn blanks_until(
    answer: impl Future<Output = String> + Send + 'static,
) -> impl futures_util::Stream<Item = Result<Bytes, Infallible>> + Send {
    let begin = Some(Box::pin(answer));
    futures_util::stream::unfold(begin, async |answer| {
        let mut answer = answer?;
        tokio::select! {
            text = &mut answer => Some((Ok(Bytes::from(text)), None)),
            () = sleep_until(Instant::now() + BLANK) => Some((Ok(Bytes::from_static(b" ")), Some(answer))),
        }
    })
}

fn reply(code: i32, output: String) -> String {
    serde_json::to_string(&wire::RunReply(code, output))
        .expect("invariant: a number and a text are JSON")
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// v1's content type, for a body that is JSON.
fn text(body: impl Into<Payload>) -> Result<Response, ApiError> {
    let kind = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    Ok((kind, body.into()).into_response())
}

/// `GET apps/<app>/run`, as a websocket.
pub(super) async fn attach(
    State(ctl): State<controller::State>,
    Caller(user): Caller,
    By(by): By,
    Path(app): Path<String>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let (name, app) = ctl.app(&user, &app, Wish::Use).await?;
    // Anything else was never there.
    let upgrade = upgrade.map_err(|_| ApiError::Method("GET".to_owned()))?;
    // What can be said now is said as HTTP.
    info!(app = %name, user = %user.username, "session asked for");
    let target = ctl.target(name, &app).await?;
    let upgrade = upgrade
        .protocols([PROTOCOL])
        .max_message_size(MAX_ASK.max(MAX_FRAME))
        .max_frame_size(MAX_ASK.max(MAX_FRAME))
        .write_buffer_size(0);
    Ok(upgrade.on_upgrade(async move |socket| {
        let session = serve(ctl.clone(), target, by, socket);
        // Tracked: a controller that is stopped waits for it.
        let _ = ctl.tasks.spawn(session).await;
    }))
}

async fn serve(ctl: controller::State, target: Target, by: Actor, mut socket: WebSocket) {
    let session = async {
        let ask = ask(&mut socket).await?;
        ctl.note_run(&target.app, &by, &ask.command).await?;
        ctl.session(&target, ask, &mut socket).await
    };
    let result = session.await;
    let goodbye = async {
        if let Err(error) = result {
            let status = Status::Failed {
                why: error.to_string(),
            };
            let text = serde_json::to_string(&status).expect("invariant: a status is plain JSON");
            let _ = socket.send(Message::Text(text.into())).await;
        }
        let _ = socket.send(Message::Close(None)).await;
        // Until it has closed, too: else the last message may get lost on the way.
        while let Some(Ok(_)) = socket.recv().await {}
    };
    let _ = timeout(GOODBYE_LIMIT, goodbye).await;
}

/// Reads what is to be run.
async fn ask(socket: &mut WebSocket) -> Result<Ask, ApiError> {
    let message = timeout(ASK_LIMIT, socket.recv()).await;
    let text = match message {
        Ok(Some(Ok(Message::Text(text)))) => text,
        _ => {
            return Err(ApiError::detail(
                "The first message says what to run, as JSON.",
            ));
        }
    };
    let ask: Ask = serde_json::from_str(&text)
        .map_err(|error| ApiError::detail(format!("JSON parse error - {error}")))?;
    valid::command_line(&ask.command)?;
    Ok(ask)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer that takes hours: nobody in between may hear nothing for long, and it is v1's.
    #[tokio::test(start_paused = true)]
    async fn a_long_answer_gives_signs_of_life() {
        let answer = async {
            tokio::time::sleep(Duration::from_secs(3 * 3600 + 1)).await;
            reply(3, "done\n".into())
        };
        let body = axum::body::to_bytes(Payload::from_stream(blanks_until(answer)), 1 << 20);
        let text = body.await.expect("a body");
        let blanks = text.iter().take_while(|byte| **byte == b' ').count();
        assert_eq!(blanks, 360);
        let wire::RunReply(code, output) = serde_json::from_slice(&text).expect("JSON");
        assert_eq!((code, output.as_str()), (3, "done\n"));
    }
}
