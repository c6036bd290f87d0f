//! One-off processes over a real socket: sessions, their ends, and what is left of them.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error as SocketError, Message, client::IntoClientRequest as _},
};

use super::flows::site_with_app;
use crate::{
    controller::{
        sweep,
        testing::{Site, machine},
    },
    model::{Assignment, Desired, PartPresence, SCHEMA, SealedValue, Work},
    session::{Channel, Frame, Link, PROTOCOL, Part, Status},
    store::{Txn, keys},
};

const PATIENCE: Duration = Duration::from_secs(10);

/// A client's end.
struct Client {
    socket: WebSocketStream<TcpStream>,
    link: Link,
}

/// What a session was, seen from the client.
#[derive(Debug, Default)]
struct Seen {
    output: String,
    errors: String,
    status: Option<Status>,
    /// What the platform itself had to say.
    said: Option<Status>,
}

async fn connect(site: &Site, token: &str) -> Result<WebSocketStream<TcpStream>, SocketError> {
    let url = format!("ws://{}/v1/apps/blog/run/", site.address);
    let mut request = url.into_client_request().expect("request");
    let headers = request.headers_mut();
    if !token.is_empty() {
        let value = format!("token {token}").parse().expect("header");
        headers.insert("authorization", value);
    }
    headers.insert("sec-websocket-protocol", PROTOCOL.parse().expect("header"));
    let stream = TcpStream::connect(site.address).await.expect("connected");
    client_async(request, stream)
        .await
        .map(|(socket, _)| socket)
}

impl Client {
    async fn ask(site: &Site, token: &str, ask: Value) -> Self {
        let mut socket = connect(site, token).await.expect("a websocket");
        let ask = Message::Text(ask.to_string().into());
        socket.send(ask).await.expect("asked");
        Self {
            socket,
            link: Link::answering(),
        }
    }

    async fn send(&mut self) {
        while let Some(frame) = self.link.next_frame() {
            let message = Message::Binary(frame.encode().into());
            self.socket.send(message).await.expect("sent");
        }
    }

    async fn say(&mut self, channel: Channel, bytes: &[u8]) {
        self.link.push(Part::new(channel, bytes));
        self.send().await;
    }

    /// Takes what comes until `enough`, or the end.
    async fn hear(&mut self, enough: impl Fn(&Seen) -> bool) -> Seen {
        let mut seen = Seen::default();
        let work = async {
            while !enough(&seen) {
                match self.socket.next().await {
                    Some(Ok(Message::Binary(bytes))) => {
                        let frame = Frame::decode(&bytes).expect("a frame");
                        if let Some(part) = self.link.hear(frame).expect("rules") {
                            self.link.take();
                            let text = || String::from_utf8_lossy(&part.bytes).into_owned();
                            match part.channel {
                                Channel::Output => seen.output += &text(),
                                Channel::Errors => seen.errors += &text(),
                                Channel::Status => {
                                    seen.status = serde_json::from_str(&text()).ok();
                                }
                                other => panic!("{other:?}"),
                            }
                        }
                        self.send().await;
                    }
                    Some(Ok(Message::Text(text))) => seen.said = serde_json::from_str(&text).ok(),
                    Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                    Some(Ok(_)) => {}
                }
                if seen.status.is_some() {
                    break;
                }
            }
        };
        timeout(PATIENCE, work).await.expect("in time");
        seen
    }

    async fn until_the_end(&mut self) -> Seen {
        self.hear(|_| false).await
    }
}

const fn ended(code: i32) -> Option<Status> {
    Some(Status::Ended { code, remark: None })
}

/// Waits until nothing of the schedule is a one-off.
async fn nothing_left(site: &Site) {
    let mut feed = site.store.follow(keys::schedule_of(&machine()).as_str());
    let work = async {
        loop {
            let schedule = site.store.list(&keys::schedule()).await.expect("schedule");
            if schedule
                .entries
                .iter()
                .all(|(key, _)| !key.contains(".run."))
            {
                return;
            }
            feed.next().await;
        }
    };
    timeout(PATIENCE, work).await.expect("removed in time");
}

#[tokio::test]
async fn sessions() {
    let (site, token) = site_with_app().await;
    site.push("blog", "ada").await;
    let mut client = Client::ask(&site, &token, json!({ "command": "exit 3" })).await;
    let seen = client.until_the_end().await;
    assert_eq!((seen.output.as_str(), seen.status), ("exit 3\n", ended(3)));
    drop(client);
    let mut client = Client::ask(&site, &token, json!({ "command": "both" })).await;
    let seen = client.until_the_end().await;
    assert_eq!(
        (seen.output.as_str(), seen.errors.as_str(), seen.status),
        ("both\n", "to stderr\n", ended(0))
    );
    drop(client);

    // Input goes there and its echo comes back, while the command runs.
    let ask = json!({ "command": "cat", "input": true });
    let mut client = Client::ask(&site, &token, ask).await;
    client.link.push(Part::new(Channel::Input, *b"ping\n"));
    let seen = client.hear(|seen| seen.output.ends_with('\n')).await;
    assert_eq!(seen.output, "ping\n");
    client.say(Channel::Input, b"").await;
    assert_eq!(client.until_the_end().await.status, ended(0));
    drop(client);

    // A terminal with its kind and sizes.
    let terminal = json!({ "rows": 24, "cols": 80, "term": "screen" });
    let ask = json!({ "command": "sizes", "input": true, "terminal": terminal });
    let mut client = Client::ask(&site, &token, ask).await;
    let seen = client.hear(|seen| seen.output.ends_with('\n')).await;
    assert_eq!(seen.output, "screen 24 80\n");
    client
        .say(Channel::Size, br#"{"rows":50,"cols":132}"#)
        .await;
    let seen = client.hear(|seen| seen.output.ends_with('}')).await;
    assert_eq!(seen.output, r#"{"rows":50,"cols":132}"#);
    client.say(Channel::Input, b"x").await;
    assert_eq!(client.until_the_end().await.status, ended(0));
    drop(client);

    // The sidecar's connection breaks again and again: all comes, once.
    let mut client = Client::ask(&site, &token, json!({ "command": "broken" })).await;
    let seen = client.until_the_end().await;
    let want: String = (0..100).map(|n| format!("{n}\n")).collect();
    assert_eq!((seen.output, seen.status), (want, ended(0)));
    drop(client);
    nothing_left(&site).await;
}

#[tokio::test]
async fn what_is_refused_and_what_goes_wrong() {
    let (site, token) = site_with_app().await;
    let status = async |token: &str| match connect(&site, token).await {
        Err(SocketError::Http(response)) => response.status().as_u16(),
        other => panic!("{other:?}"),
    };
    assert_eq!(status(&token).await, 400, "no build");
    site.push("blog", "ada").await;
    assert_eq!(status("").await, 401);
    let bob = site.user("bob", false).await;
    assert_eq!(status(&bob).await, 403);
    // Without an upgrade it is what it was in v1.
    let reply = site
        .call(&token, "GET", "/v1/apps/blog/run/", Value::Null)
        .await;
    assert_eq!(reply.line, "HTTP/1.1 405 METHOD NOT ALLOWED");
    assert_eq!(
        reply.json(),
        json!({ "detail": "Method 'GET' not allowed." })
    );

    let said = async |ask: Value| {
        let mut client = Client::ask(&site, &token, ask).await;
        match client.until_the_end().await.said {
            Some(Status::Failed { why }) => why,
            other => panic!("{other:?}"),
        }
    };
    let why = said(json!({ "line": "x" })).await;
    assert!(why.contains("missing field `command`"), "{why}");
    let why = said(json!({ "command": "a\0b" })).await;
    assert!(why.contains("NUL"), "{why}");
    let why = said(json!({ "command": "x".repeat(40 << 10) })).await;
    assert!(why.contains("32768"), "{why}");
    let terminal = json!({ "rows": 1, "cols": 1, "term": "x --privileged" });
    let why = said(json!({ "command": "x", "terminal": terminal })).await;
    assert!(why.contains("a short word"), "{why}");
    let why = said(json!({ "command": "refuse" })).await;
    assert_eq!(why, "host-1 can't run it: no image");
    let why = said(json!({ "command": "mute" })).await;
    assert!(why.contains("power cut"), "{why}");
    nothing_left(&site).await;
    let why = said(json!({ "command": "vanish" })).await;
    assert!(why.starts_with("The host host-1 was lost"), "{why}");
    nothing_left(&site).await;
}

#[tokio::test]
async fn frames_that_make_no_sense_end_the_session() {
    let (site, token) = site_with_app().await;
    site.push("blog", "ada").await;
    for nonsense in [
        Message::Binary(vec![7, 7, 7].into()),
        Message::Binary(bytes::Bytes::new()),
        Message::Text("{}".into()),
        Message::Binary(vec![0; 100 << 10].into()),
    ] {
        let mut client = Client::ask(&site, &token, json!({ "command": "hold" })).await;
        client.hear(|seen| !seen.output.is_empty()).await;
        // One that is too large is refused before it has been sent.
        let _ = client.socket.send(nonsense).await;
        client.until_the_end().await;
        nothing_left(&site).await;
    }
}

#[tokio::test]
async fn a_client_that_vanishes_ends_its_process() {
    let (site, token) = site_with_app().await;
    site.push("blog", "ada").await;
    let mut client = Client::ask(&site, &token, json!({ "command": "hold" })).await;
    client.hear(|seen| !seen.output.is_empty()).await;
    drop(client);
    nothing_left(&site).await;
}

#[tokio::test]
async fn a_signal_reaches_the_process() {
    let (site, token) = site_with_app().await;
    site.push("blog", "ada").await;
    let mut client = Client::ask(&site, &token, json!({ "command": "hold" })).await;
    client.hear(|seen| !seen.output.is_empty()).await;
    client.say(Channel::Signal, b"INT").await;
    assert_eq!(client.until_the_end().await.status, ended(130));
}

#[tokio::test]
async fn many_at_once_get_names_of_their_own() {
    let (site, token) = site_with_app().await;
    site.push("blog", "ada").await;
    let calls = (0..5).map(|n| {
        let body = json!({ "command": format!("exit {n}") });
        site.call(&token, "POST", "/v1/apps/blog/run", body)
    });
    for (n, reply) in futures_util::future::join_all(calls)
        .await
        .iter()
        .enumerate()
    {
        assert_eq!(reply.status(), 200, "{}", reply.body);
        assert_eq!(reply.json()[0], n);
    }
}

#[tokio::test]
async fn v1_s_answer_has_a_bound_that_it_tells_of() {
    let (site, token) = site_with_app().await;
    site.push("blog", "ada").await;
    for (size, cut) in [(10_000_000, 0), ((16 << 20) + 1234, 1234)] {
        let body = json!({ "command": format!("big {size}") });
        let reply = site.call(&token, "POST", "/v1/apps/blog/run", body).await;
        let answer = reply.json();
        let output = answer[1].as_str().expect("output");
        let kept = output.bytes().take_while(|byte| *byte == b'x').count();
        assert_eq!(kept, size - cut);
        let remark =
            format!("\n[deis: {cut} more bytes of output are not kept: 16 MiB at most are]\n");
        assert_eq!(&output[kept..], if cut > 0 { remark.as_str() } else { "" });
    }
}

#[tokio::test]
async fn a_detached_process_is_nobody_s_business() {
    let (site, token) = site_with_app().await;
    site.push("blog", "ada").await;
    let body = json!({ "command": "echo hunter2", "detach": true });
    let reply = site.call(&token, "POST", "/v1/apps/blog/run", body).await;
    assert_eq!((reply.status(), reply.json()), (200, json!([0, "run.1"])));
    let schedule = site.store.list(&keys::schedule()).await.expect("schedule");
    let (_, assignment) = schedule
        .entries
        .iter()
        .find(|(key, _)| key.contains(".run."))
        .expect("assigned");
    let Work::Run { attach: None, .. } = &assignment.value.work else {
        panic!("{:?}", assignment.value);
    };
    // What is run is sealed.
    let text = serde_json::to_string(&assignment.value).expect("text");
    assert!(!text.contains("hunter2"), "{text}");
    let body = json!({ "command": "x", "detach": "yes" });
    let reply = site.call(&token, "POST", "/v1/apps/blog/run", body).await;
    assert_eq!(reply.status(), 400);
}

#[tokio::test]
async fn processes_of_a_lost_controller_are_removed() {
    let site = Site::start().await;
    let own = site.state.attach.address();
    let there = PartPresence {
        schema: SCHEMA,
        id: uuid::Uuid::nil(),
        address: "10.9.9.9:8000".into(),
    };
    let mut txn = Txn::new().put(&keys::part("controller", "10.9.9.9"), &there);
    for (name, attach) in [
        ("blog_v2.run.1", Some(own.to_string())),
        ("blog_v2.run.2", Some("10.9.9.9:8001".into())),
        ("blog_v2.run.3", Some("10.8.8.8:8001".into())),
        ("blog_v2.run.4", None),
    ] {
        let assignment = Assignment {
            schema: SCHEMA,
            uuid: uuid::Uuid::new_v4(),
            desired: Desired::Run,
            work: Work::Run {
                order: Some(SealedValue(String::new())),
                attach,
                memory_bytes: 1,
                cpu_shares: 0,
            },
        };
        let key = keys::assignment(&"3".repeat(32).parse().expect("id"), name);
        txn = txn.put(&key, &assignment);
    }
    site.store.commit(txn).await.expect("put");
    let left = async || {
        let left = site.store.list(&keys::schedule()).await.expect("schedule");
        let numbers = left
            .entries
            .iter()
            .map(|(key, _)| key.rsplit('.').next().expect("number").to_owned());
        numbers.collect::<Vec<_>>().concat()
    };
    sweep::former_life(&site.store, own).await.expect("swept");
    assert_eq!(left().await, "234");
    // One that is there keeps its own; a detached one is nobody's.
    sweep::of_absent(&site.store).await.expect("swept");
    assert_eq!(left().await, "24");
}

/// A destroyed app takes the assignments of its one-offs along: whoever waits for one hears of it.
#[tokio::test]
async fn a_process_that_is_taken_away_ends_its_session() {
    let (site, token) = site_with_app().await;
    site.push("blog", "ada").await;
    let mut client = Client::ask(&site, &token, json!({ "command": "hold" })).await;
    client.hear(|seen| !seen.output.is_empty()).await;
    let schedule = site.store.list(&keys::schedule()).await.expect("schedule");
    let mut runs = schedule
        .entries
        .iter()
        .filter(|(key, _)| key.contains(".run."));
    let (key, _) = runs.next().expect("the one-off");
    let (machine, name) = keys::parse_assignment(key).expect("its name");
    let txn = Txn::new().delete(&keys::assignment(&machine, name));
    site.store.commit(txn).await.expect("taken away");
    match client.until_the_end().await.said {
        Some(Status::Failed { why }) => assert!(why.contains("taken away"), "{why}"),
        other => panic!("{other:?}"),
    }
}
