//! `run`: a command in a process of its own, connected with our input and output (see
//! [`crate::session`]). Its exit code becomes ours.

mod local;

use std::{
    future::poll_fn,
    task::Poll,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail};
use futures_util::{Sink, SinkExt as _, StreamExt as _};
use reqwest::Upgraded;
use serde_json::json;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Error as SocketError, Message},
};

use self::local::{Event, Local};
use super::{Shell, args, client::of_app, quote};
use crate::{
    api::wire,
    session::{Ask, Channel, Frame, Link, PROTOCOL, Part, Status},
};

/// A connection on which nothing comes for so long is lost: the controller asks every ten seconds
/// whether we are there.
const SILENCE: Duration = Duration::from_secs(40);

/// How long a process may take to end after Ctrl-C.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// Our exit code when the connection is lost, or the platform fails: as ssh's.
const LOST: u8 = 255;

/// `apps:run`
pub async fn run(shell: &mut Shell<'_>, args: args::Run) -> anyhow::Result<u8> {
    let (session, app) = shell.app(args.app.app.as_deref())?;
    let command = quote::line(&args.command);
    let path = of_app(&app, &["run"]);
    if args.detach {
        let body = json!({ "command": command, "detach": true });
        let answer = session.client.post(&path, body).await?;
        let wire::RunReply(_, process) = answer.json()?;
        shell.ui.line(&format!("Running '{command}' as {process}"));
        return Ok(0);
    }
    let mut local = Local::new(shell.ui, &args)?;
    let ask = Ask {
        command: command.clone(),
        terminal: local.terminal(),
        input: local.has_input(),
    };
    // To stderr: what the command prints is to be all that a pipe gets.
    shell.ui.error(&format!("Running '{command}'..."));
    let mut socket = session.client.websocket(&path, PROTOCOL).await?;
    let ask = serde_json::to_string(&ask)?;
    socket
        .send(Message::Text(ask.into()))
        .await
        .context("the connection broke off")?;
    local.begin(shell.ui)?;
    let ended = converse(&mut socket, &mut local, shell).await;
    // The terminal is the user's again before anything is said.
    local.end();
    let _ = timeout(GOODBYE, socket.close(None)).await;
    match ended {
        Ok(End::Status(Status::Ended { code, remark })) => {
            if let Some(remark) = remark {
                shell.ui.error(&format!("deis: {remark}"));
            }
            Ok(u8::try_from(code).unwrap_or(LOST))
        }
        Ok(End::Status(Status::Failed { why })) => {
            shell.ui.error(&format!("Error: {why}"));
            Ok(LOST)
        }
        Ok(End::Left(code)) => Ok(code),
        Err(error) => {
            shell.ui.error(&format!("Error: {error:#}"));
            Ok(LOST)
        }
    }
}

/// How a session ended.
enum End {
    /// As the process did.
    Status(Status),
    /// We left, with this exit code.
    Left(u8),
}

type Socket = WebSocketStream<Upgraded>;

/// What a socket is ready for.
enum Turn {
    Message(Option<Result<Message, SocketError>>),
    /// To take another message.
    Ready(Result<(), SocketError>),
    /// What it took is on its way.
    Flushed(Result<(), SocketError>),
}

/// Waits for whichever comes first. Sending never keeps us from reading: both sides might wait for
/// each other then.
async fn turn(socket: &mut Socket, wants: bool, flushed: bool) -> Turn {
    poll_fn(|cx| {
        if let Poll::Ready(message) = socket.poll_next_unpin(cx) {
            return Poll::Ready(Turn::Message(message));
        }
        if wants {
            return socket.poll_ready_unpin(cx).map(Turn::Ready);
        }
        if flushed {
            return Poll::Pending;
        }
        socket.poll_flush_unpin(cx).map(Turn::Flushed)
    })
    .await
}

/// Carries everything both ways until one side ends it.
async fn converse(
    socket: &mut Socket,
    local: &mut Local,
    shell: &mut Shell<'_>,
) -> anyhow::Result<End> {
    let lost = |error: SocketError| {
        anyhow!("the connection to the controller is lost ({error}); the command is being ended")
    };
    let mut link = Link::answering();
    let mut status = None;
    let mut flushed = true;
    let mut heard = Instant::now();
    let mut interrupted: Option<Instant> = None;
    loop {
        // The end comes after all output was written.
        if let Some(status) = status.take_if(|_| local.is_quiet()) {
            link.take();
            let tell = async {
                while let Some(frame) = link.next_frame() {
                    socket.send(Message::Binary(frame.encode().into())).await?;
                }
                Ok::<_, SocketError>(())
            };
            // Whether it arrives or not: the process has ended.
            let _ = timeout(GOODBYE, tell).await;
            return Ok(match interrupted {
                Some(_) => End::Left(130),
                None => End::Status(status),
            });
        }
        let patience = SILENCE.saturating_sub(heard.elapsed());
        let grace = interrupted.map_or(SILENCE, |at| PATIENCE.saturating_sub(at.elapsed()));
        let may_read = link.is_open() && link.room() > 0;
        tokio::select! {
            turn = turn(socket, link.wants(), flushed) => {
                let message = match turn {
                    Turn::Message(message) => message,
                    Turn::Ready(ready) => {
                        ready.map_err(lost)?;
                        if let Some(frame) = link.next_frame() {
                            let message = Message::Binary(frame.encode().into());
                            Pin::new(&mut *socket).start_send(message).map_err(lost)?;
                            flushed = false;
                        }
                        continue;
                    }
                    Turn::Flushed(done) => {
                        done.map_err(lost)?;
                        flushed = true;
                        continue;
                    }
                };
                heard = Instant::now();
                let frame = match message {
                    Some(Ok(Message::Binary(bytes))) => Frame::decode(&bytes)?,
                    // What the platform itself has to say.
                    Some(Ok(Message::Text(text))) => {
                        return Ok(End::Status(serde_json::from_str(&text)?));
                    }
                    Some(Ok(Message::Close(_))) | None => {
                        bail!("the controller closed the connection; the command is being ended");
                    }
                    Some(Ok(_)) => continue,
                    Some(Err(error)) => return Err(lost(error)),
                };
                let Some(part) = link.hear(frame)? else { continue };
                match part.channel {
                    Channel::Output => local.write(shell.ui, part.bytes, false)?,
                    Channel::Errors => local.write(shell.ui, part.bytes, true)?,
                    Channel::Status => status = Some(serde_json::from_slice(&part.bytes)?),
                    Channel::Input | Channel::Size | Channel::Signal => link.take(),
                }
            }
            event = local.next(may_read) => match event {
                Event::Written => link.take(),
                // As if a signal had ended us that we can't see: `| head` has seen enough.
                Event::Closed => return Ok(End::Left(128 + 13)),
                Event::Failed(error) => bail!("can't write the command's output: {error}"),
                Event::Input(bytes) => link.push(Part::new(Channel::Input, bytes)),
                Event::Size(size) => {
                    link.push(Part::new(Channel::Size, serde_json::to_vec(&size)?));
                }
                Event::Interrupt if interrupted.is_some() => return Ok(End::Left(130)),
                Event::Interrupt => {
                    interrupted = Some(Instant::now());
                    link.push(Part::new(Channel::Signal, *b"INT"));
                }
                Event::Leave(code) => return Ok(End::Left(code)),
            },
            () = sleep(patience) => bail!(
                "no sign of life from the controller for {} s: the connection is lost, and the command \
                 is being ended", SILENCE.as_secs()
            ),
            () = sleep(grace), if interrupted.is_some() => return Ok(End::Left(130)),
        }
    }
}
