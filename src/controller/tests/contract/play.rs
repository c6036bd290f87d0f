//! Plays a story against a controller, over a real socket.

use std::time::Duration;

use serde_json::Value;

use super::{
    holes::Holes,
    stage::Stage,
    story::{Answer, Body, Exchange, Request, Step, Story},
};
use crate::controller::testing::Reply;

/// What the head of every answer has (deis-v1.md, 4.1).
const COMMON: [(&str, &str); 5] = [
    ("DEIS_API_VERSION", "1.7"),
    ("X_DEIS_API_VERSION", "1.7"),
    ("DEIS_PLATFORM_VERSION", env!("CARGO_PKG_VERSION")),
    ("X_DEIS_PLATFORM_VERSION", env!("CARGO_PKG_VERSION")),
    ("Access-Control-Allow-Origin", "*"),
];

/// What belongs to one connection and must not pass a proxy, `Connection` itself aside.
const HOP_BY_HOP: [&str; 6] = [
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
];

/// Longest wait for an answer: a change in the way is waited for five seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Plays a story; all that differs from it, with the lines where.
pub(super) async fn play(name: &str, story: &Story) -> Vec<String> {
    let mut stage = Stage::empty().await;
    let mut holes = Holes::default();
    let mut wrong = Vec::new();
    for step in &story.steps {
        match step {
            Step::SetUp(line, words) => {
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                stage
                    .set_up(&words, &mut holes)
                    .await
                    .unwrap_or_else(|why| {
                        panic!("fixtures/{name}:{line}: @{}: {why}", words.join(" "))
                    });
            }
            Step::Exchange(exchange) => {
                let at = format!("fixtures/{name}:{}: {}", exchange.line, exchange.title);
                let bytes = request(&exchange.request, &holes);
                let sent = stage.site().raw(&bytes);
                let reply = match tokio::time::timeout(PATIENCE, sent).await {
                    Ok(reply) => reply,
                    Err(_) => {
                        wrong.push(format!("{at}\n     no answer in {PATIENCE:?}"));
                        continue;
                    }
                };
                for why in differences(exchange, &reply, &mut holes) {
                    wrong.push(format!("{at}\n     {why}"));
                }
            }
        }
    }
    wrong
}

/// The bytes of a request.
fn request(request: &Request, holes: &Holes) -> Vec<u8> {
    let body = holes.fill(&request.body);
    let posts = request.head[0].starts_with("POST ") || request.head[0].starts_with("PUT ");
    let length = (posts || !body.is_empty()).then(|| format!("Content-Length: {}", body.len()));
    let mut head = String::new();
    let mut line = |text: &str| {
        head.push_str(text);
        head.push_str("\r\n");
    };
    for text in &request.head {
        let who = |client: &str| {
            let inner = text.strip_prefix('{')?.strip_suffix('}')?;
            let name = inner.strip_prefix(client)?;
            (name.is_empty() || name.starts_with(':')).then(|| name.trim_start_matches(':'))
        };
        let token = |name: &str| {
            let token = holes.get(&format!("token:{name}"));
            token.unwrap_or_else(|| panic!("no user {name}")).to_owned()
        };
        if let Some(name) = who("client") {
            line("Host: deis.example.com");
            line("User-Agent: Deis Client v1.13.4");
            length.iter().for_each(|length| line(length));
            if !name.is_empty() {
                line(&format!("Authorization: token {}", token(name)));
            }
            line("Content-Type: application/json");
            line("Accept-Encoding: gzip");
            line("Connection: close");
        } else if let Some(name) = who("curl") {
            line("Host: deis.example.com");
            line("User-Agent: curl/7.88.1");
            line("Accept: */*");
            if !name.is_empty() {
                line(&format!("Authorization: Token {}", token(name)));
            }
            line("Connection: close");
            if !body.is_empty() && !request.chunked {
                length.iter().for_each(|length| line(length));
            }
        } else {
            line(&holes.fill(&text.replace("{length}", &body.len().to_string())));
        }
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    if request.chunked {
        for chunk in body.as_bytes().chunks(5) {
            bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
    } else {
        bytes.extend_from_slice(body.as_bytes());
    }
    bytes
}

/// What is different in an answer.
fn differences(exchange: &Exchange, reply: &Reply, holes: &mut Holes) -> Vec<String> {
    let Answer {
        status_line,
        headers,
        body,
    } = &exchange.answer;
    let mut wrong = Vec::new();
    if reply.line != *status_line {
        wrong.push(format!(
            "expected {status_line}\n     got {} {}",
            reply.line, reply.body
        ));
    }
    let common = COMMON.map(|(name, value)| (name.to_owned(), value.to_owned()));
    for (name, value) in common.iter().chain(headers) {
        let found: Vec<&str> = reply
            .headers
            .iter()
            .filter_map(|line| line.split_once(": "))
            .filter(|(n, _)| n == name)
            .map(|(_, value)| value)
            .collect();
        match (value.as_str(), found.as_slice()) {
            ("{absent}", []) => {}
            (want, [got]) if want != "{absent}" => {
                if let Err(why) = holes.text(want, got) {
                    wrong.push(format!("{name}: {why}"));
                }
            }
            (want, got) => wrong.push(format!(
                "{name}: expected {want}\n     got {got:?} in {:?}",
                reply.headers
            )),
        }
    }
    let head = exchange.request.head[0].starts_with("HEAD ");
    wrong.extend(ill_formed(reply, head));
    let compared = match body {
        Body::Json(want) => serde_json::from_str::<Value>(&reply.body)
            .map_err(|e| format!("{e}: {:?}", reply.body))
            .and_then(|got| holes.json("body", want, &got))
            .map_err(|why| format!("{why}\n     in {}", reply.body)),
        Body::Text(want) => holes.text(want, &reply.body),
        Body::Any => Ok(()),
    };
    wrong.extend(compared.err());
    wrong
}

/// What no answer may be, whatever it says.
fn ill_formed(reply: &Reply, head: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut names: Vec<String> = reply
        .headers
        .iter()
        .map(|line| {
            line.split_once(": ")
                .map_or(line.as_str(), |(name, _)| name)
        })
        .map(str::to_ascii_lowercase)
        .collect();
    names.sort_unstable();
    for two in names.windows(2).filter(|two| two[0] == two[1]) {
        wrong.push(format!("the header {} is there twice", two[0]));
    }
    for name in names
        .iter()
        .filter(|name| HOP_BY_HOP.contains(&name.as_str()))
    {
        wrong.push(format!("the header {name} doesn't belong there"));
    }
    let length = reply.header("content-length").map(str::to_owned);
    let chunked = reply.header("transfer-encoding").is_some();
    match (reply.status(), length, chunked) {
        (204, None, false) if reply.body.is_empty() => {}
        (204, ..) => wrong.push("a 204 that has a body, or says how long it is".to_owned()),
        (_, Some(length), false) if head || length == reply.body.len().to_string() => {}
        (_, length, chunked) => wrong.push(format!("length {length:?}, chunked {chunked}")),
    }
    let challenge = reply.header("www-authenticate");
    if challenge != (reply.status() == 401).then_some("Token") {
        wrong.push(format!("WWW-Authenticate: {challenge:?}"));
    }
    wrong
}

/// The stories are worth something only if one that isn't true is found out.
#[tokio::test]
async fn a_lie_is_found() {
    let truth = "== 2: nobody\n>>>\nGET /v1/ HTTP/1.1\nHost: x\nConnection: close\n\n<<< exact\n\
                 HTTP/1.1 401 UNAUTHORIZED\nDEIS_API_VERSION: 1.7\nContent-Type: application/json\n\n\
                 {\"detail\":\"Authentication credentials were not provided.\"}\n";
    let differences = async |text: &str| {
        let story = super::story::parse("truth", text);
        play("truth", &story).await.len()
    };
    assert_eq!(differences(truth).await, 0);
    assert_eq!(differences(&truth.replace(" exact", "")).await, 0);
    for (from, to) in [
        ("UNAUTHORIZED", "Unauthorized"),
        ("HTTP/1.1 401", "HTTP/1.0 401"),
        ("DEIS_API_VERSION: 1.7", "DEIS_API_VERSION: 1.8"),
        ("DEIS_API_VERSION", "Deis_api_version"),
        ("DEIS_API_VERSION: 1.7", "DEIS_API_VERSION: {absent}"),
        ("application/json", "text/plain"),
        ("provided.", "provided"),
        ("{\"detail\":", "{\"detail\": "),
        ("credentials were", "credentials {uuid} were"),
    ] {
        let lie = truth.replace(from, to);
        assert_ne!(lie, truth);
        assert_eq!(differences(&lie).await, 1, "{from} -> {to}");
    }
}
