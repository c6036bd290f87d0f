//! The command line, parsed by hand: this program counts its pages.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{announce, fence, log, run, ship::Address, wire::Source};
use crate::model::{AppName, ProcessName};

/// What `--help` says.
pub const USAGE: &str = "\
deis-sidecar stands beside a process: it announces when the process is healthy, and brings its log away.
A one-off process it starts itself, and connects it with whoever has asked for it.
As a host's fence it stops processes of single types when the host's lease has run out.

Usage:
  deis-sidecar announce --unit NAME --uuid UUID --address IP:PORT
                        [--health-url /PATH [--health-initial-delay S] [--health-timeout S]]
  deis-sidecar announce --unit NAME --uuid UUID --no-port
  deis-sidecar log      --unit NAME --uuid UUID --app APP --tag 'APP[TYPE.N]' [--drain]
  deis-sidecar fence    [--lease PATH] [--fenced PATH]
  deis-sidecar run      --unit NAME --errand PATH -- PROGRAM [ARGUMENT...]

Options:
  --unit NAME               the process's unit without suffix, as blog_v7.web.1
  --uuid UUID               the process's uuid, as in its assignment
  --address IP:PORT         where it is published on this host
  --no-port                 it has no port: it is healthy after one second
  --health-url /PATH        a GET must be answered with 200
  --health-initial-delay S  seconds before the first GET (0)
  --health-timeout S        seconds that an answer may take (1)
  --app APP                 the app
  --tag TAG                 what its lines are tagged with
  --drain                   send what is left in the spool, remove it and exit
  --errand PATH             file that says what to run: the command line, for whom, on what terminal
  --lease PATH              file that says until when the host's lease holds (/run/deis/lease)
  --fenced PATH             folder of the processes to stop then (/run/deis/fence)
  --agent-socket PATH       the agent (/run/deis/agent.sock)
  --spool PATH              folder of the spools (/run/deis/spool)
  --journal PATH            the journal (/run/systemd/journal/socket)
";

/// Longest wait that an option may ask for.
const MAX_SECONDS: u64 = 3600;

/// What the program is to do.
#[derive(Debug)]
pub enum Command {
    /// Print [`USAGE`].
    Help,
    /// Be the announcer.
    Announce(announce::Options),
    /// Be the fence.
    Fence(fence::Options),
    /// Be the log sidecar.
    Log(log::Options),
    /// Run a one-off process.
    Run(run::Options),
}

/// Why the arguments make no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgsError {
    /// No such command.
    #[error("expected the command announce, log, run or fence, got {0:?}")]
    Command(String),
    /// No such option for this command.
    #[error("unknown option {0:?}")]
    Option(String),
    /// An option without its value.
    #[error("{0} needs a value")]
    NoValue(&'static str),
    /// An option that must be there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A value of the wrong form.
    #[error("{option} can't be {value:?}: {why}")]
    Value {
        /// The option.
        option: &'static str,
        /// The value.
        value: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Options with a value.
const VALUED: [&str; 14] = [
    "--unit",
    "--uuid",
    "--address",
    "--health-url",
    "--health-initial-delay",
    "--health-timeout",
    "--app",
    "--tag",
    "--agent-socket",
    "--spool",
    "--journal",
    "--errand",
    "--lease",
    "--fenced",
];
/// Options without.
const FLAGS: [&str; 2] = ["--no-port", "--drain"];

/// Reads the arguments, without the program's name.
///
/// # Errors
/// When they make no sense.
pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Command, ArgsError> {
    let mut args = args.into_iter();
    let command = args.next().unwrap_or_default();
    let given = Given::collect(args)?;
    match command.as_str() {
        "help" | "--help" | "-h" => Ok(Command::Help),
        _ if given.help => Ok(Command::Help),
        "announce" => given.announce().map(Command::Announce),
        "log" => given.log().map(Command::Log),
        "run" => given.run().map(Command::Run),
        "fence" => Ok(Command::Fence(given.fence())),
        _ => Err(ArgsError::Command(command)),
    }
}

#[derive(Debug, Default)]
struct Given {
    help: bool,
    flags: Vec<&'static str>,
    values: Vec<(&'static str, String)>,
    /// What stands behind `--`.
    rest: Vec<String>,
}

impl Given {
    fn collect(mut args: impl Iterator<Item = String>) -> Result<Self, ArgsError> {
        let mut given = Self::default();
        while let Some(arg) = args.next() {
            let (name, attached) = match arg.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (arg.as_str(), None),
            };
            if let Some(option) = VALUED.iter().find(|o| **o == name) {
                let value = attached.or_else(|| args.next());
                let value = value.ok_or(ArgsError::NoValue(option))?;
                given.values.push((option, value));
            } else if let Some(flag) = FLAGS.iter().find(|o| **o == arg) {
                given.flags.push(flag);
            } else if arg == "--help" || arg == "-h" {
                given.help = true;
            } else if arg == "--" {
                given.rest = args.collect();
                break;
            } else {
                return Err(ArgsError::Option(arg));
            }
        }
        Ok(given)
    }

    fn optional(&self, option: &'static str) -> Option<&str> {
        let found = self.values.iter().rfind(|(name, _)| *name == option);
        found.map(|(_, value)| value.as_str())
    }

    fn required(&self, option: &'static str) -> Result<&str, ArgsError> {
        self.optional(option).ok_or(ArgsError::Missing(option))
    }

    fn path(&self, option: &'static str, default: &str) -> PathBuf {
        self.optional(option).unwrap_or(default).into()
    }

    fn agent(&self) -> PathBuf {
        self.path("--agent-socket", "/run/deis/agent.sock")
    }

    fn unit(&self) -> Result<String, ArgsError> {
        let unit = self.required("--unit")?;
        let unit: ProcessName = parsed("--unit", unit)?;
        Ok(unit.to_string())
    }

    fn uuid(&self) -> Result<String, ArgsError> {
        let uuid: uuid::Uuid = parsed("--uuid", self.required("--uuid")?)?;
        Ok(uuid.to_string())
    }

    fn seconds(&self, option: &'static str, default: u64) -> Result<Duration, ArgsError> {
        let Some(text) = self.optional(option) else {
            return Ok(Duration::from_secs(default));
        };
        let seconds: u64 = parsed(option, text)?;
        if seconds > MAX_SECONDS {
            return Err(wrong(option, text, format!("at most {MAX_SECONDS} s")));
        }
        Ok(Duration::from_secs(seconds))
    }

    fn announce(&self) -> Result<announce::Options, ArgsError> {
        Ok(announce::Options {
            agent: self.agent(),
            unit: self.unit()?,
            uuid: self.uuid()?,
            check: self.check()?,
        })
    }

    fn check(&self) -> Result<announce::Check, ArgsError> {
        if self.flags.contains(&"--no-port") {
            return Ok(announce::Check::Active);
        }
        let address: SocketAddr = parsed("--address", self.required("--address")?)?;
        let Some(path) = self.optional("--health-url") else {
            return Ok(announce::Check::Tcp(address));
        };
        if !path.starts_with('/') || !path.chars().all(|c| c.is_ascii_graphic()) {
            let why = "a path begins with / and has no spaces".to_owned();
            return Err(wrong("--health-url", path, why));
        }
        Ok(announce::Check::Http {
            address,
            path: path.to_owned(),
            initial_delay: self.seconds("--health-initial-delay", 0)?,
            timeout: self
                .seconds("--health-timeout", 1)?
                .max(Duration::from_millis(100)),
        })
    }

    fn fence(&self) -> fence::Options {
        fence::Options {
            lease: self.path("--lease", fence::LEASE),
            fenced: self.path("--fenced", fence::FENCED),
        }
    }

    fn run(&self) -> Result<run::Options, ArgsError> {
        if self.rest.is_empty() {
            return Err(ArgsError::Missing("-- PROGRAM"));
        }
        Ok(run::Options {
            agent: self.agent(),
            unit: self.unit()?,
            errand: self.required("--errand")?.into(),
            program: self.rest.clone(),
        })
    }

    fn log(&self) -> Result<log::Options, ArgsError> {
        let app: AppName = parsed("--app", self.required("--app")?)?;
        let tag = self.required("--tag")?;
        let source = tag
            .strip_prefix(app.as_str())
            .and_then(|rest| rest.strip_prefix('[')?.strip_suffix(']'))
            .ok_or_else(|| wrong("--tag", tag, format!("expected {app}[type.number]")))?;
        let source: Source = parsed("--tag", source)?;
        Ok(log::Options {
            address: Address {
                agent: self.agent(),
                unit: self.unit()?,
                uuid: self.uuid()?,
                app,
                source,
            },
            spool: self.path("--spool", "/run/deis/spool"),
            journal: self.path("--journal", "/run/systemd/journal/socket"),
            drain: self.flags.contains(&"--drain"),
        })
    }
}

fn wrong(option: &'static str, value: &str, why: String) -> ArgsError {
    ArgsError::Value {
        option,
        value: value.to_owned(),
        why,
    }
}

fn parsed<T>(option: &'static str, value: &str) -> Result<T, ArgsError>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    value
        .parse()
        .map_err(|e: T::Err| wrong(option, value, e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "6f0e5a52-55c7-4b3a-8d55-0c1d55b8a111";

    fn run(line: &str) -> Result<Command, ArgsError> {
        let line = line.replace("UUID", UUID);
        parse(line.split_ascii_whitespace().map(str::to_owned))
    }

    #[test]
    fn announcers() {
        let unit = "announce --unit blog_v7.web.1 --uuid UUID";
        let check = |rest: &str| match run(&format!("{unit} {rest}")) {
            Ok(Command::Announce(options)) => Ok(options.check),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error),
        };
        let address = "127.0.0.1:20001".parse().expect("address");
        assert_eq!(check("--no-port"), Ok(announce::Check::Active));
        assert_eq!(
            check("--address 127.0.0.1:20001"),
            Ok(announce::Check::Tcp(address))
        );
        assert_eq!(
            check("--address=127.0.0.1:20001 --health-url=/up?a=b --health-timeout 3"),
            Ok(announce::Check::Http {
                address,
                path: "/up?a=b".into(),
                timeout: Duration::from_secs(3),
                initial_delay: Duration::ZERO,
            })
        );
        assert_eq!(check(""), Err(ArgsError::Missing("--address")));
        assert!(check("--address nowhere").is_err());
        assert!(check("--address 127.0.0.1:1 --health-url up").is_err());
        assert!(check("--address 127.0.0.1:1 --health-url / --health-timeout 9999").is_err());
    }

    #[test]
    fn loggers() {
        let rest = "--unit blog_v7.web.1 --uuid UUID --app blog";
        let Ok(Command::Log(options)) = run(&format!("log {rest} --tag blog[web.1]")) else {
            panic!("refused");
        };
        assert_eq!(options.address.source.as_str(), "web.1");
        assert!(!options.drain);
        for tag in ["web.1", "other[web.1]", "blog[web.1", "blog[a/b]", "blog[]"] {
            assert!(run(&format!("log {rest} --tag {tag}")).is_err(), "{tag}");
        }
        assert!(run("log --unit ../x --uuid UUID --app blog --tag blog[web.1]").is_err());
    }

    #[test]
    fn one_offs() {
        let Ok(Command::Run(options)) =
            run("run --unit blog_v7.run.1 --errand /x -- podman run --unit --")
        else {
            panic!("refused");
        };
        assert_eq!(options.program, ["podman", "run", "--unit", "--"]);
        for line in [
            "run --unit blog_v7.run.1 --errand /x",
            "run --unit blog_v7.run.1 -- podman",
            "run --unit ../x --errand /x -- podman",
        ] {
            assert!(run(line).is_err(), "{line}");
        }
    }

    #[test]
    fn nonsense() {
        assert!(matches!(run("announce --help"), Ok(Command::Help)));
        assert!(matches!(run(""), Err(ArgsError::Command(_))));
        assert!(matches!(run("log --verbose"), Err(ArgsError::Option(_))));
        assert!(matches!(
            run("log --unit"),
            Err(ArgsError::NoValue("--unit"))
        ));
    }
}
