//! Commands with a bound, and waits with a voice.

use std::{
    io::Read,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

pub const MINUTE: Duration = Duration::from_secs(60);

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    pub command: String,
    pub status: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub(super) fn of(command: &Command, output: Output) -> Self {
        Self {
            command: format!("{command:?}"),
            status: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The command succeeded, or the test ends here with all that it said.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.status, Some(0), "{self:#?}");
        self
    }

    /// The command was refused, and said so in words.
    #[track_caller]
    pub fn refused(self) -> Self {
        assert!(
            self.status.is_some_and(|status| status != 0),
            "should be refused: {self:#?}"
        );
        assert!(
            !self.err.trim().is_empty() || !self.out.trim().is_empty(),
            "in words: {self:#?}"
        );
        assert!(!self.all().contains("panicked"), "{self:#?}");
        self
    }

    pub fn all(&self) -> String {
        format!("{}{}", self.out, self.err)
    }
}

/// Runs a command to its end, with a bound.
#[track_caller]
pub fn run(command: &mut Command, limit: Duration) -> Ran {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let reader = |mut stream: Box<dyn Read + Send>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stream.read_to_end(&mut bytes);
            bytes
        })
    };
    let out = reader(Box::new(child.stdout.take().expect("stdout")));
    let err = reader(Box::new(child.stderr.take().expect("stderr")));
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait") {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{command:?} took longer than {limit:?}");
        }
        thread::sleep(Duration::from_millis(10));
    };
    let output = Output {
        status,
        stdout: out.join().expect("reader"),
        stderr: err.join().expect("reader"),
    };
    Ran::of(command, output)
}

/// Waits for a condition, with a bound and a voice.
#[track_caller]
pub fn eventually<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match look() {
            Ok(found) => return found,
            Err(why) if Instant::now() > deadline => panic!("{what}: not within {limit:?}: {why}"),
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
}
