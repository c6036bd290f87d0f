//! What is said in JSON: what is asked for, what the host is told, how it ended. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters per line.
    pub cols: u16,
}

/// The kind of a terminal, as `$TERM` says it: a short word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Term(String);

impl Default for Term {
    fn default() -> Self {
        Self("xterm".to_owned())
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Term> for String {
    fn from(term: Term) -> Self {
        term.0
    }
}

impl TryFrom<String> for Term {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
        if text.is_empty() || text.len() > 64 || !text.chars().all(plain) {
            return Err("a terminal's kind is a short word like xterm-256color");
        }
        Ok(Self(text))
    }
}

/// The terminal of whoever asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminal {
    /// Its size at the beginning.
    #[serde(flatten)]
    pub size: Size,
    /// Its kind.
    #[serde(default)]
    pub term: Term,
}

/// The first message of a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// The command line, for a shell.
    pub command: String,
    /// Its terminal; none: pipes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<Terminal>,
    /// Whether there is input; else it is empty from the beginning.
    #[serde(default)]
    pub input: bool,
}

/// What a host is told about a one-off process, sealed in its assignment.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The command line, for a shell.
    pub command: String,
    /// Its terminal; none: pipes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<Terminal>,
    /// Whether there is input.
    #[serde(default)]
    pub input: bool,
    /// What proves to the controller that waits that this is the process it waits for; none for a
    /// detached one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// A command line may hold secrets.
impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Order")
            .field("terminal", &self.terminal)
            .field("input", &self.input)
            .finish_non_exhaustive()
    }
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The process ended.
    Ended {
        /// Its exit code; 128 + N when signal N ended it.
        code: i32,
        /// What the platform has to say about it: out of memory.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        remark: Option<String>,
    },
    /// It could not be started, or nobody knows how it ended.
    Failed {
        /// Why.
        why: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let ask: Ask = serde_json::from_str(
            r#"{"command":"bash","terminal":{"rows":24,"cols":80,"term":"xterm-256color"},"input":true}"#,
        )
        .expect("ask");
        let terminal = ask.terminal.expect("a terminal");
        assert_eq!(terminal.size, Size { rows: 24, cols: 80 });
        assert_eq!(terminal.term.to_string(), "xterm-256color");
        let bare: Ask = serde_json::from_str(r#"{"command":"ls"}"#).expect("ask");
        assert!(bare.terminal.is_none() && !bare.input);
        for term in ["", "x y", "a=b", "x\n", &"x".repeat(65)] {
            assert!(Term::try_from(term.to_owned()).is_err(), "{term:?}");
        }
        let ended = Status::Ended {
            code: 3,
            remark: None,
        };
        let text = serde_json::to_string(&ended).expect("text");
        assert_eq!(text, r#"{"ended":{"code":3}}"#);
    }

    #[test]
    fn an_order_does_not_show_its_command() {
        let order = Order {
            command: "echo hunter2".into(),
            terminal: None,
            input: false,
            token: Some("t0ken".into()),
        };
        let shown = format!("{order:?}");
        assert!(
            !shown.contains("hunter2") && !shown.contains("t0ken"),
            "{shown}"
        );
    }
}
