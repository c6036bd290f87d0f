//! Where a drain is, and what is said there: syslog messages, RFC 5424 or 3164. Pure.

use std::{fmt, str::FromStr};

use jiff::Timestamp;

/// Most bytes of a message: what one UDP packet takes.
const MAX_MESSAGE: usize = 65_507;
/// Stands at the end of a text that was too long.
const CUT: &str = "...";
/// Facility user, severity informational.
const PRIORITY: u8 = 8 + 6;
/// syslog's own port.
const PORT: u16 = 514;

/// How messages travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// One packet each.
    Udp,
    /// One line each.
    Tcp,
}

/// How a message looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Rfc5424,
    Rfc3164,
}

/// A syslog server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub(super) transport: Transport,
    pub(super) host: String,
    pub(super) port: u16,
    form: Form,
}

/// Why a text names no syslog server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no drain ({why}); write it as syslog://host:514 (UDP), tcp://host:514 or udp://host:514, \
     with ?format=rfc3164 for servers that know no RFC 5424"
)]
pub struct InvalidTarget {
    text: String,
    why: &'static str,
}

impl FromStr for Target {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        let text = text.trim();
        let refuse = |why| InvalidTarget {
            text: text.chars().take(200).collect(),
            why,
        };
        let (scheme, rest) = text.split_once("://").ok_or(refuse("it has no scheme"))?;
        let transport = match scheme {
            "udp" | "syslog" | "syslog+udp" => Transport::Udp,
            "tcp" | "syslog+tcp" => Transport::Tcp,
            _ => return Err(refuse("its scheme is none of syslog, udp and tcp")),
        };
        let (place, form) = match rest.split_once('?') {
            None => (rest, Form::Rfc5424),
            Some((place, "format=rfc5424")) => (place, Form::Rfc5424),
            Some((place, "format=rfc3164")) => (place, Form::Rfc3164),
            Some(_) => return Err(refuse("its format is neither rfc5424 nor rfc3164")),
        };
        let place = place.strip_suffix('/').unwrap_or(place);
        let (host, port) = match place.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest
                    .split_once(']')
                    .ok_or(refuse("its address has no end"))?;
                let is_v6 = host.parse::<std::net::Ipv6Addr>().is_ok();
                (
                    is_v6.then_some(host).ok_or(refuse("its address is none"))?,
                    port,
                )
            }
            None => place.split_at(place.find(':').unwrap_or(place.len())),
        };
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => PORT,
            None => return Err(refuse("its port is none")),
            Some(port) => match port.parse() {
                Ok(port) if port > 0 => port,
                _ => return Err(refuse("its port is none")),
            },
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
        if host.is_empty() || host.len() > 253 || !host.chars().all(plain) {
            return Err(refuse("its host is none"));
        }
        Ok(Self {
            transport,
            host: host.to_owned(),
            port,
            form,
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.transport {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
        };
        let (host, port) = (&self.host, self.port);
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{port}")
        } else {
            write!(f, "{scheme}://{host}:{port}")
        }
    }
}

/// A line of a log.
#[derive(Debug, Clone, Copy)]
pub struct Line<'l> {
    /// Whose.
    pub app: &'l str,
    /// Who said it.
    pub source: &'l str,
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// What.
    pub text: &'l [u8],
}

impl Target {
    /// A line as a message from `host`, framed for the way it takes.
    pub(super) fn message(&self, host: &str, line: &Line<'_>) -> Vec<u8> {
        let time = i64::try_from(line.time_ms).ok();
        let time = time.and_then(|ms| Timestamp::from_millisecond(ms).ok());
        let time = time.unwrap_or_default();
        let Line { app, source, .. } = line;
        let head = match self.form {
            Form::Rfc5424 => {
                let time = time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ");
                // The standard's own bound for a program's name.
                let app: String = app.chars().take(48).collect();
                format!("<{PRIORITY}>1 {time} {host} {app} {source} - - ")
            }
            Form::Rfc3164 => {
                let time = time.strftime("%b %e %H:%M:%S");
                format!("<{PRIORITY}>{time} {host} {app}[{source}]: ")
            }
        };
        let text = String::from_utf8_lossy(line.text);
        let mut message = head.into_bytes();
        for c in text.chars() {
            // A message is one line, and servers stumble over NUL.
            let c = if matches!(c, '\r' | '\n' | '\0') {
                ' '
            } else {
                c
            };
            if message.len() + c.len_utf8() + CUT.len() > MAX_MESSAGE {
                message.extend_from_slice(CUT.as_bytes());
                break;
            }
            message.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
        if self.transport == Transport::Tcp {
            message.push(b'\n');
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn targets() {
        for (text, want) in [
            (
                "syslog://logs.example.com:1514",
                "udp://logs.example.com:1514",
            ),
            ("udp://10.0.0.1", "udp://10.0.0.1:514"),
            (
                "tcp://logs-1.example.com:6514/",
                "tcp://logs-1.example.com:6514",
            ),
            ("syslog+tcp://x:1?format=rfc3164", "tcp://x:1"),
            ("tcp://[fd00::1]:601", "tcp://[fd00::1]:601"),
            (" tcp://x:1\n", "tcp://x:1"),
        ] {
            let target: Target = text.parse().expect(text);
            assert_eq!(target.to_string(), want);
        }
        for bad in [
            "",
            "logs.example.com:514",
            "http://x:1",
            "tcp://",
            "tcp://:1",
            "tcp://x:0",
            "tcp://x:99999",
            "tcp://x:1x",
            "tcp://[::1",
            "tcp://[x]:1",
            "tcp://a b:1",
            "tcp://user@x:1",
            "tcp://x:1?format=json",
        ] {
            assert!(bad.parse::<Target>().is_err(), "{bad:?} must be refused");
        }
    }

    fn message(target: &str, text: &[u8]) -> Vec<u8> {
        let target: Target = target.parse().expect("target");
        let line = Line {
            app: "blog",
            source: "web.1",
            time_ms: 1_420_070_400_009,
            text,
        };
        target.message("10.0.0.1", &line)
    }

    #[test]
    fn messages() {
        for (target, text, want) in [
            (
                "tcp://x",
                &b"hi: there"[..],
                "<14>1 2015-01-01T00:00:00.009Z 10.0.0.1 blog web.1 - - hi: there\n",
            ),
            (
                "udp://x",
                b"a\rb\0\xff",
                "<14>1 2015-01-01T00:00:00.009Z 10.0.0.1 blog web.1 - - a b \u{fffd}",
            ),
            (
                "udp://x?format=rfc3164",
                b"",
                "<14>Jan  1 00:00:00 10.0.0.1 blog[web.1]: ",
            ),
        ] {
            assert_eq!(
                String::from_utf8(message(target, text)).expect("text"),
                want
            );
        }
    }

    proptest! {
        /// Whatever an app says is one message of bounded size.
        #[test]
        fn one_bounded_line(text in proptest::collection::vec(any::<u8>(), 0..300), times in 1usize..400) {
            let message = message("tcp://x", &text.repeat(times));
            prop_assert!(message.len() <= MAX_MESSAGE + 1);
            let (last, rest) = message.split_last().expect("some");
            prop_assert_eq!(*last, b'\n');
            prop_assert!(!rest.contains(&b'\n'));
            prop_assert!(std::str::from_utf8(rest).is_ok());
        }
    }
}
