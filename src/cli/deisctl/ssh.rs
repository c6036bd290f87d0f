//! SSH sessions to hosts with libssh2: host keys are verified against known_hosts, always.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
    time::Duration,
};

use ssh2::{CheckResult, KnownHostFileKind, MethodType, Session};

use super::{
    failure::{Failure, Kind},
    known_hosts,
    tunnel::Tunnel,
};

/// How to log in to the hosts of a cluster.
#[derive(Debug, Clone)]
pub struct Ssh {
    /// User on the host.
    pub user: String,
    /// Private key; the SSH agent and the usual files when absent.
    pub key: Option<PathBuf>,
    /// The hosts' public keys.
    pub known_hosts: PathBuf,
    /// Bound of connecting and logging in.
    pub timeout: Duration,
    /// The host to go through.
    pub jump: Option<Address>,
}

/// A host and perhaps a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Name or IP address, without brackets.
    pub host: String,
    /// The port, unless it is the usual one.
    pub port: Option<u16>,
}

impl Address {
    /// A host at the usual port.
    #[must_use]
    pub fn host(host: &str) -> Self {
        Self {
            host: host.to_owned(),
            port: None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.port, self.host.contains(':')) {
            (Some(port), true) => write!(f, "[{}]:{port}", self.host),
            (Some(port), false) => write!(f, "{}:{port}", self.host),
            (None, _) => f.write_str(&self.host),
        }
    }
}

impl FromStr for Address {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let wrong = || Failure::new(Kind::Usage, format!("{text:?} is no host"));
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
            (host, rest.strip_prefix(':'))
        } else if text.matches(':').count() > 1 {
            (text, None)
        } else {
            match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-:%".contains(c);
        // A leading dash would be an option to ssh.
        if host.is_empty() || host.starts_with('-') || !host.chars().all(plain) {
            return Err(wrong());
        }
        let port = port
            .map(|port| port.parse::<u16>().map_err(|_| wrong()))
            .transpose()?;
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

/// Why a host can't be logged in to.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// No connection.
    #[error("can't connect to {host}")]
    Connect {
        /// The host.
        host: Address,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The protocol failed.
    #[error("SSH with {host} failed while {doing}")]
    Protocol {
        /// The host.
        host: Address,
        /// At which step.
        doing: &'static str,
        /// What libssh2 says.
        #[source]
        source: ssh2::Error,
    },
    /// The host's key is not known.
    #[error(
        "the key of {host} is not in {file}: check its fingerprint and add it with `ssh-keyscan`"
    )]
    UnknownHost {
        /// The host.
        host: Address,
        /// known_hosts.
        file: String,
    },
    /// The host has another key than it had.
    #[error(
        "{host} HAS ANOTHER KEY than {file} says: it was set up anew, or somebody is in between; \
         if you know why, `ssh-keygen -R` removes the old one"
    )]
    ChangedKey {
        /// The host.
        host: Address,
        /// known_hosts.
        file: String,
    },
    /// No key was accepted.
    #[error("{host} accepts none of our keys for {user} (tried: {tried}); use --ssh-key")]
    Denied {
        /// The host.
        host: Address,
        /// User there.
        user: String,
        /// What was tried.
        tried: String,
    },
    /// The way through the other host failed.
    #[error("no way to {host} through {jump}")]
    Jump {
        /// The host.
        host: Address,
        /// The host to go through.
        jump: Address,
        /// Why.
        #[source]
        source: Box<SshError>,
    },
    /// What the command printed couldn't be passed on.
    #[error("the output of the command on {host} broke off")]
    Output {
        /// The host.
        host: Address,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Ssh {
    /// Runs a command on a host, passing on its output as it comes; returns its exit status.
    ///
    /// The words are quoted for the shell there. Waits for as long as the command runs: a
    /// connection whose other end is gone is noticed by TCP within half a minute.
    ///
    /// # Errors
    /// When the host can't be logged in to or the connection breaks.
    pub fn run(
        &self,
        host: &Address,
        words: &[&str],
        out: &mut impl Write,
    ) -> Result<i32, SshError> {
        let protocol = |doing| {
            let host = host.clone();
            move |source| SshError::Protocol {
                host,
                doing,
                source,
            }
        };
        // The tunnel must outlive the session that goes through it.
        let (session, _tunnel) = self.reach(host)?;
        let mut channel = session
            .channel_session()
            .map_err(protocol("opening a channel"))?;
        channel
            .handle_extended_data(ssh2::ExtendedData::Merge)
            .map_err(protocol("joining output and errors"))?;
        let command: Vec<String> = words.iter().map(|word| quote(word)).collect();
        channel
            .exec(&command.join(" "))
            .map_err(protocol("starting the command"))?;
        // From here on the command decides how long it takes.
        session.set_timeout(0);
        let broke = |source| SshError::Output {
            host: host.clone(),
            source,
        };
        let mut buffer = [0; 16 << 10];
        loop {
            let read = channel.read(&mut buffer).map_err(broke)?;
            if read == 0 {
                break;
            }
            out.write_all(&buffer[..read])
                .and_then(|()| out.flush())
                .map_err(broke)?;
        }
        session.set_timeout(millis(self.timeout));
        channel
            .wait_close()
            .map_err(protocol("ending the command"))?;
        channel
            .exit_status()
            .map_err(protocol("ending the command"))
    }

    /// The system's ssh with these options and no command yet: to a host, through the jump host if there
    /// is one.
    #[must_use]
    pub fn program(&self, to: &Address, terminal: bool) -> Command {
        let mut program = Command::new("ssh");
        program.args(self.options());
        if let Some(jump) = &self.jump {
            // Not by -J: that heeds none of these options on the way to the jump host.
            let options = self.options().into_iter();
            let options = options.map(|option| option.replace('%', "%%"));
            let way = ["-W".to_owned(), "[%h]:%p".to_owned()];
            let words = options.chain(way).chain(self.destination(jump));
            let words: Vec<String> = words.map(|word| quote(&word)).collect();
            let way = format!("ProxyCommand=ssh {}", words.join(" "));
            program.args(["-o", &way]);
        }
        if terminal {
            program.arg("-t");
        }
        program.args(self.destination(to));
        program
    }

    fn options(&self) -> Vec<String> {
        let mut options = vec![
            "-o".to_owned(),
            format!("UserKnownHostsFile={}", self.known_hosts.display()),
            "-oStrictHostKeyChecking=yes".to_owned(),
            format!("-oConnectTimeout={}", self.timeout.as_secs().max(1)),
        ];
        if let Some(key) = &self.key {
            let key = key.display().to_string();
            options.extend(["-i".to_owned(), key, "-oIdentitiesOnly=yes".to_owned()]);
        }
        options
    }

    fn destination(&self, to: &Address) -> Vec<String> {
        let port = to.port.map(|port| format!("-p{port}"));
        let host = ["--".to_owned(), format!("{}@{}", self.user, to.host)];
        port.into_iter().chain(host).collect()
    }

    /// A session with a host, through the jump host if there is one.
    fn reach(&self, host: &Address) -> Result<(Session, Option<Tunnel>), SshError> {
        let Some(jump) = &self.jump else {
            return Ok((self.session(host)?.0, None));
        };
        let mut target = host.clone();
        target.port.get_or_insert(22);
        let tunnel = Tunnel::open(self, jump, target).map_err(|source| SshError::Jump {
            host: host.clone(),
            jump: jump.clone(),
            source: Box::new(source),
        })?;
        let stream = TcpStream::connect(tunnel.local()).map_err(|source| SshError::Connect {
            host: host.clone(),
            source,
        })?;
        Ok((self.log_in(stream, host)?, Some(tunnel)))
    }

    /// A session with a host that can be connected to directly, and the socket below it to poll.
    ///
    /// # Errors
    /// When it can't be reached, isn't who it should be, or doesn't know us.
    pub fn session(&self, host: &Address) -> Result<(Session, TcpStream), SshError> {
        let failed = |source| SshError::Connect {
            host: host.clone(),
            source,
        };
        let stream = connect(host, self.timeout).map_err(failed)?;
        let socket = stream.try_clone().map_err(failed)?;
        Ok((self.log_in(stream, host)?, socket))
    }

    fn log_in(&self, stream: TcpStream, host: &Address) -> Result<Session, SshError> {
        let protocol = |doing| {
            move |source| SshError::Protocol {
                host: host.clone(),
                doing,
                source,
            }
        };
        let mut session = Session::new().map_err(protocol("starting"))?;
        session.set_timeout(millis(self.timeout));
        session.set_tcp_stream(stream);
        let known = std::fs::read_to_string(&self.known_hosts).unwrap_or_default();
        if let Some(order) = known_hosts::key_order(&known, host) {
            session
                .method_pref(MethodType::HostKey, &order)
                .map_err(protocol("agreeing on a kind of host key"))?;
        }
        session.handshake().map_err(protocol("shaking hands"))?;
        self.verify(&session, host)?;
        self.authenticate(&session, host)?;
        Ok(session)
    }

    fn verify(&self, session: &Session, host: &Address) -> Result<(), SshError> {
        let file = || self.known_hosts.display().to_string();
        let unknown = || SshError::UnknownHost {
            host: host.clone(),
            file: file(),
        };
        let mut known = session.known_hosts().map_err(|_| unknown())?;
        // A file that isn't there knows nobody.
        known
            .read_file(&self.known_hosts, KnownHostFileKind::OpenSSH)
            .map_err(|_| unknown())?;
        let (key, _) = session.host_key().ok_or_else(unknown)?;
        match known.check_port(&host.host, host.port.unwrap_or(22), key) {
            CheckResult::Match => Ok(()),
            CheckResult::Mismatch => Err(SshError::ChangedKey {
                host: host.clone(),
                file: file(),
            }),
            CheckResult::NotFound | CheckResult::Failure => Err(unknown()),
        }
    }

    fn authenticate(&self, session: &Session, host: &Address) -> Result<(), SshError> {
        let mut tried = Vec::new();
        let by_file = |path: &Path, tried: &mut Vec<String>| {
            tried.push(path.display().to_string());
            session
                .userauth_pubkey_file(&self.user, None, path, None)
                .is_ok()
        };
        if let Some(key) = &self.key {
            if by_file(key, &mut tried) {
                return Ok(());
            }
        } else {
            tried.push("the SSH agent".to_owned());
            if session.userauth_agent(&self.user).is_ok() && session.authenticated() {
                return Ok(());
            }
            let home = std::env::var_os("HOME").map(PathBuf::from);
            let usual = ["id_ed25519", "id_rsa"].map(|name| Path::new(".ssh").join(name));
            for path in home
                .iter()
                .flat_map(|home| usual.iter().map(|key| home.join(key)))
            {
                if path.exists() && by_file(&path, &mut tried) {
                    return Ok(());
                }
            }
        }
        Err(SshError::Denied {
            host: host.clone(),
            user: self.user.clone(),
            tried: tried.join(", "),
        })
    }
}

/// libssh2 counts in milliseconds, and 0 means no bound.
fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis())
        .unwrap_or(u32::MAX)
        .max(1)
}

/// Connects to the first of the host's addresses that answers in time; keeps probing it then.
fn connect(host: &Address, timeout: Duration) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host.host.as_str(), host.port.unwrap_or(22)).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => {
                use rustix::net::sockopt;
                stream.set_nodelay(true)?;
                sockopt::set_socket_keepalive(&stream, true)?;
                sockopt::set_tcp_keepidle(&stream, Duration::from_secs(10))?;
                sockopt::set_tcp_keepintvl(&stream, Duration::from_secs(5))?;
                sockopt::set_tcp_keepcnt(&stream, 4)?;
                return Ok(stream);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// A word that a POSIX shell takes as it is.
#[must_use]
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./_-".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses() {
        let cases = [
            ("deis-01", Some(("deis-01", None))),
            ("10.0.0.1:2222", Some(("10.0.0.1", Some(2222)))),
            ("[::1]:22", Some(("::1", Some(22)))),
            ("::1", Some(("::1", None))),
            ("", None),
            ("-oProxyCommand=x", None),
            ("a b", None),
            ("a;b", None),
            ("host:port", None),
            ("[::1", None),
        ];
        for (text, want) in cases {
            let got = text.parse::<Address>().ok();
            let got = got.as_ref().map(|a| (a.host.as_str(), a.port));
            assert_eq!(got, want, "{text:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn a_shell_reads_back_the_quoted_word(word in "[^\0]{0,40}") {
            let output = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", quote(&word))])
                .output()
                .expect("sh");
            prop_assert_eq!(output.stdout, word.as_bytes());
        }
    }
}
