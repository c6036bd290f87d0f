//! Reads fixtures. A fixture is a story in plain text: set-up lines, then exchanges.
//!
//! ```text
//! # Words for whoever reads it; lines of this kind go nowhere.
//! @user ada admin
//! @app blog ada
//!
//! == 10: an app's owner reads it
//! >>>
//! GET /v1/apps/blog/ HTTP/1.1
//! {client:ada}
//! <<<
//! HTTP/1.1 200 OK
//! Content-Type: application/json
//!
//! {"uuid":"{uuid:blog}","id":"blog", ...}
//! ```
//!
//! Below `>>>` stand the bytes of the request (heads get CRLF), below `<<<` those of the answer. The
//! number in a title is the route's in deis-v1.md, section 4.3. `{client:ada}` stands for the head
//! lines that v1's Go client sends for ada, `{client}` for those before a login, `{curl:ada}` for
//! curl's; `{length}` for the body's length. `>>> chunked` sends the body in chunks of five bytes.
//!
//! Of an answer's head, the lines that are written must be there to the letter, once; `{absent}` as a
//! value says that a line must not be. What all answers have in common is in `play::COMMON` and in
//! the fixture `00-conventions.http`. A body is compared as JSON when the content type says so or
//! behind `<<< json`, else, and behind `<<< exact`, byte by byte; a `␤` at its end is a line break.
//! `<<< any` leaves it open.

use serde_json::Value;

/// A fixture.
pub(super) struct Story {
    pub(super) steps: Vec<Step>,
}

/// A step, with the number of its line.
pub(super) enum Step {
    SetUp(usize, Vec<String>),
    Exchange(Exchange),
}

/// A request and its answer, with the placeholders as they are written.
pub(super) struct Exchange {
    pub(super) line: usize,
    pub(super) title: String,
    /// Routes that it is about, by their numbers in deis-v1.md.
    pub(super) routes: Vec<u8>,
    pub(super) request: Request,
    pub(super) answer: Answer,
}

pub(super) struct Request {
    pub(super) head: Vec<String>,
    pub(super) body: String,
    pub(super) chunked: bool,
}

pub(super) struct Answer {
    pub(super) status_line: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Body,
}

impl Answer {
    pub(super) fn status(&self) -> u16 {
        let code = self.status_line.split(' ').nth(1);
        code.and_then(|code| code.parse().ok()).expect("a status")
    }
}

#[derive(Debug)]
pub(super) enum Body {
    Json(Value),
    Text(String),
    /// Left open by the reference.
    Any,
}

/// What stands below `>>>` or `<<<`: flags, head, body.
struct Message {
    flags: String,
    head: Vec<String>,
    body: String,
}

/// Reads a fixture; panics with the line where it is wrong.
pub(super) fn parse(file: &str, text: &str) -> Story {
    let lines: Vec<&str> = text.lines().collect();
    let marks = |line: &str| {
        ["== ", "@", "# ", ">>>", "<<<"]
            .iter()
            .any(|mark| line.starts_with(mark))
    };
    let message = |at: &mut usize, mark: &str| -> Message {
        let first = lines.get(*at).copied().unwrap_or_default();
        let flags = first.strip_prefix(mark);
        let flags = flags.unwrap_or_else(|| panic!("{file}:{}: no {mark}", *at + 1));
        *at += 1;
        let end = (*at..lines.len()).find(|i| marks(lines[*i]));
        let whole = &lines[*at..end.unwrap_or(lines.len())];
        *at += whole.len();
        let (head, body) = match whole.iter().position(|line| line.is_empty()) {
            Some(blank) => (&whole[..blank], whole[blank + 1..].join("\n")),
            None => (whole, String::new()),
        };
        let body = body.trim_end_matches('\n').to_owned();
        Message {
            flags: flags.trim().to_owned(),
            head: head.iter().map(|line| (*line).to_owned()).collect(),
            body: match body.strip_suffix('␤') {
                Some(text) => format!("{text}\n"),
                None => body,
            },
        }
    };
    let mut steps = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let (number, line) = (at + 1, lines[at]);
        if line.is_empty() || line.starts_with('#') {
            at += 1;
        } else if let Some(words) = line.strip_prefix('@') {
            let words = words.split_whitespace().map(str::to_owned).collect();
            steps.push(Step::SetUp(number, words));
            at += 1;
        } else if let Some(title) = line.strip_prefix("== ") {
            at += 1;
            let request = message(&mut at, ">>>");
            let answer = message(&mut at, "<<<");
            let at = format!("{file}:{number}");
            let exchange = exchange(&at, number, title, request, answer);
            steps.push(Step::Exchange(exchange));
        } else {
            panic!("{file}:{number}: neither a comment, a set-up line nor a title: {line}");
        }
    }
    Story { steps }
}

fn exchange(at: &str, line: usize, title: &str, request: Message, answer: Message) -> Exchange {
    let (numbers, _) = title.split_once(": ").unwrap_or_default();
    let routes = numbers.split(", ").map(str::parse);
    let routes = routes.collect::<Result<_, _>>().unwrap_or_default();
    let mut head = answer.head.into_iter();
    let status_line = head.next().expect("a status line");
    let headers: Vec<(String, String)> = head
        .map(|text| match text.split_once(": ") {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => panic!("{at}: not a header: {text}"),
        })
        .collect();
    let of_json = |(name, value): &(String, String)| {
        name == "Content-Type" && value.starts_with("application/json")
    };
    let json = match answer.flags.as_str() {
        "json" => true,
        "exact" | "any" => false,
        "" => !answer.body.is_empty() && headers.iter().any(of_json),
        other => panic!("{at}: unknown flag {other}"),
    };
    let typed = headers.iter().any(|(name, _)| name == "Content-Type");
    assert!(
        typed || answer.body.is_empty(),
        "{at}: a body without a Content-Type"
    );
    let body = if answer.flags == "any" {
        Body::Any
    } else if json {
        let value = serde_json::from_str(&answer.body);
        Body::Json(value.unwrap_or_else(|e| panic!("{at}: {e}: {}", answer.body)))
    } else {
        Body::Text(answer.body)
    };
    Exchange {
        line,
        title: title.to_owned(),
        routes,
        request: Request {
            head: request.head,
            body: request.body,
            chunked: request.flags == "chunked",
        },
        answer: Answer {
            status_line,
            headers,
            body,
        },
    }
}
