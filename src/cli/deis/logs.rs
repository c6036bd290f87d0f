//! `deis logs`: the last lines, or each new one as it comes.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use reqwest::{Response, StatusCode};
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};

use super::{
    Session, Shell, args,
    client::{Refused, of_app},
    ui::{Format, Ui},
};
use crate::{
    backoff::{Backoff, random},
    model::AppName,
};

/// The controller gives a sign of life every 15 s.
const SILENCE: Duration = Duration::from_secs(50);
/// How long a log that broke off is tried to be had again.
const PATIENCE: Duration = Duration::from_secs(120);
/// First and longest pause between two tries.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// A longer line is shown in parts of this size.
const LONGEST: usize = 4 << 20;
/// What a shell calls the end by Ctrl-C.
const INTERRUPTED: u8 = 130;

/// `apps:logs`
pub async fn logs(shell: &mut Shell<'_>, args: args::Logs) -> anyhow::Result<u8> {
    let (session, app) = shell.app(args.app.app.as_deref())?;
    let mut query = Vec::new();
    query.extend(args.lines.map(|n| ("log_lines", n.to_string())));
    query.extend(args.ps.map(|of| ("ps", of)));
    query.extend(args.since.map(|since| ("since", since)));
    let mut lines = Lines::default();
    if !args.follow {
        let answer = session
            .client
            .query(&of_app(&app, &["logs"]), &query)
            .await?;
        lines.take(&answer.body, shell.ui);
        lines.finish(shell.ui);
        return Ok(0);
    }
    query.push(("follow", "1".to_owned()));
    tokio::select! {
        done = follow(&session, &app, &query, &mut lines, shell.ui) => done.map(|()| 0),
        _ = tokio::signal::ctrl_c() => Ok(INTERRUPTED),
    }
}

/// Follows a log until nobody reads it any more, across restarts of the controller.
async fn follow(
    session: &Session,
    app: &AppName,
    query: &[(&str, String)],
    lines: &mut Lines,
    ui: &mut Ui,
) -> anyhow::Result<()> {
    let path = of_app(app, &["logs"]);
    let mut response = session.client.stream(&path, query).await?;
    loop {
        read(response, lines, ui).await;
        if ui.is_closed() {
            return Ok(());
        }
        lines.finish(ui);
        let query = lines.recent.resume(query);
        let deadline = Instant::now() + PATIENCE;
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        response = loop {
            sleep(backoff.next(random())).await;
            match session.client.stream(&path, &query).await {
                Ok(response) => break response,
                Err(error) if is_final(&error) || Instant::now() >= deadline => return Err(error),
                Err(_) => {}
            }
        };
    }
}

/// Shows what comes until it breaks off.
async fn read(mut response: Response, lines: &mut Lines, ui: &mut Ui) {
    while let Ok(Ok(Some(chunk))) = timeout(SILENCE, response.chunk()).await {
        lines.take(&chunk, ui);
        if ui.is_closed() {
            return;
        }
    }
}

/// Whether the controller has said no, and will again.
fn is_final(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<Refused>()
        .and_then(|refused| refused.status.get(..3)?.parse().ok())
        .and_then(|code: u16| StatusCode::from_u16(code).ok())
        .is_some_and(|code| code.is_client_error())
}

/// Cuts what comes into lines, and shows them.
#[derive(Debug, Default)]
struct Lines {
    rest: Vec<u8>,
    recent: Recent,
}

impl Lines {
    fn take(&mut self, bytes: &[u8], ui: &mut Ui) {
        self.rest.extend_from_slice(bytes);
        let mut shown = String::new();
        while let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            self.line(&line[..end], ui, &mut shown);
        }
        if self.rest.len() > LONGEST {
            let part = std::mem::take(&mut self.rest);
            self.line(&part, ui, &mut shown);
        }
        if !shown.is_empty() {
            ui.data(shown.as_bytes());
        }
    }

    /// The answer has ended, perhaps without a last newline.
    fn finish(&mut self, ui: &mut Ui) {
        let (rest, mut shown) = (std::mem::take(&mut self.rest), String::new());
        self.line(&rest, ui, &mut shown);
        ui.data(shown.as_bytes());
    }

    fn line(&mut self, line: &[u8], ui: &Ui, shown: &mut String) {
        // A sign of life.
        if line.is_empty() {
            return;
        }
        let line = String::from_utf8_lossy(line);
        if !self.recent.is_new(&line) {
            return;
        }
        match ui.format() {
            Format::Json => shown.push_str(&json(&line)),
            Format::Text if ui.colour() => shown.push_str(&tint(&line)),
            Format::Text => shown.push_str(&line),
        }
        shown.push('\n');
    }
}

/// A line's parts: `<time> <app>[<process>]: <text>`.
fn parts(line: &str) -> Option<(Timestamp, &str, &str)> {
    let (head, text) = line.split_once("]: ")?;
    let (time, who) = head.split_once(' ')?;
    let (_, process) = who.split_once('[')?;
    let time = time.strip_suffix("UTC")?;
    Some((format!("{time}Z").parse().ok()?, process, text))
}

#[derive(Serialize)]
struct Line<'l> {
    time: Option<Timestamp>,
    process: Option<&'l str>,
    text: &'l str,
}

/// A line as a JSON object, on one line.
fn json(line: &str) -> String {
    let shape = match parts(line) {
        Some((time, process, text)) => Line {
            time: Some(time),
            process: Some(process),
            text,
        },
        None => Line {
            time: None,
            process: None,
            text: line,
        },
    };
    serde_json::to_string(&shape).unwrap_or_default()
}

/// Colours a log line by who wrote it: the word before the first `: `.
fn tint(line: &str) -> String {
    let who = line
        .split_once(": ")
        .and_then(|(head, _)| head.split(' ').nth(1));
    match who {
        Some(who) => {
            let sum: u32 = who.bytes().map(u32::from).sum();
            format!("\u{1b}[{}m{line}\u{1b}[0m", 31 + sum % 6)
        }
        None => line.to_owned(),
    }
}

/// The latest lines, so that a log that broke off goes on where it was: the controller is asked for
/// a little more than what is missing, and what was shown is left out.
#[derive(Debug, Default)]
struct Recent {
    lines: VecDeque<(Timestamp, String)>,
    /// Lines that were shown before the log broke off, and may come again: how often.
    again: HashMap<String, u32>,
    again_until: Option<Timestamp>,
}

impl Recent {
    /// How far back lines may come late.
    const WINDOW: SignedDuration = SignedDuration::from_secs(60);
    const MOST: usize = 20_000;

    /// Whether a line is to be shown.
    fn is_new(&mut self, line: &str) -> bool {
        let Some((time, ..)) = parts(line) else {
            return true;
        };
        if let Some(until) = self.again_until {
            if let Some(count) = self.again.get_mut(line).filter(|count| **count > 0) {
                *count -= 1;
                return false;
            }
            if time > until + Self::WINDOW {
                (self.again, self.again_until) = (HashMap::new(), None);
            }
        }
        let newest = self.lines.back().map_or(time, |(last, _)| time.max(*last));
        self.lines.push_back((newest, line.to_owned()));
        while self.lines.len() > Self::MOST
            || self
                .lines
                .front()
                .is_some_and(|(old, _)| *old + Self::WINDOW < newest)
        {
            self.lines.pop_front();
        }
        true
    }

    /// The query that goes on after the lines that were shown.
    fn resume<'q>(&mut self, query: &[(&'q str, String)]) -> Vec<(&'q str, String)> {
        let Some((newest, _)) = self.lines.back() else {
            return query.to_vec();
        };
        let since = *newest - Self::WINDOW;
        self.again_until = Some(*newest);
        self.again.clear();
        for (_, line) in &self.lines {
            *self.again.entry(line.clone()).or_default() += 1;
        }
        let kept = query
            .iter()
            .filter(|(name, _)| !matches!(*name, "since" | "log_lines"))
            .cloned();
        kept.chain([("since", since.to_string())]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(second: u32, text: &str) -> String {
        format!(
            "2026-01-01T00:{:02}:{:02}UTC blog[web.1]: {text}",
            second / 60,
            second % 60
        )
    }

    #[test]
    fn json_has_time_process_and_text() {
        for (line, want) in [
            (
                "2015-01-01T00:00:00UTC blog[web.1]: a \"b\": c",
                r#"{"time":"2015-01-01T00:00:00Z","process":"web.1","text":"a \"b\": c"}"#,
            ),
            (
                "2015-01-01T00:00:00UTC blog[deis-controller]: ada scaled web=3",
                r#"{"time":"2015-01-01T00:00:00Z","process":"deis-controller","text":"ada scaled web=3"}"#,
            ),
            ("what?", r#"{"time":null,"process":null,"text":"what?"}"#),
        ] {
            assert_eq!(json(line), want);
        }
    }

    #[test]
    fn a_log_that_broke_off_goes_on_without_loss_or_repetition() {
        let mut recent = Recent::default();
        let query = [("follow", "1".to_owned()), ("log_lines", "5".to_owned())];
        assert_eq!(recent.resume(&query), query, "nothing was shown yet");
        for (second, text) in [(0, "old"), (120, "a"), (120, "a"), (121, "b")] {
            assert!(recent.is_new(&line(second, text)));
        }
        let again = recent.resume(&query);
        let since = ("since", "2026-01-01T00:01:01Z".to_owned());
        assert_eq!(again, [("follow", "1".to_owned()), since]);
        let come = [
            (120, "a"),
            (120, "a"),
            (120, "late"),
            (121, "b"),
            (121, "b"),
            (122, "c"),
        ];
        let new: Vec<&str> = come
            .iter()
            .filter(|(second, text)| recent.is_new(&line(*second, text)))
            .map(|(_, text)| *text)
            .collect();
        assert_eq!(new, ["late", "b", "c"]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut recent = Recent::default();
        for n in 0..30_000 {
            assert!(recent.is_new(&line(1, &n.to_string())));
        }
        assert_eq!(recent.lines.len(), Recent::MOST);
        assert!(recent.is_new(&line(300, "much later")));
        assert_eq!(recent.lines.len(), 1);
    }
}
