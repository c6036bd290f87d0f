//! How deisctl fails: what happened, what to do next, and an exit code for scripts.

use std::fmt;

/// What kind of failure it is; scripts see it as the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The platform or a rule says no.
    Refused,
    /// The arguments make no sense.
    Usage,
    /// What was asked for isn't there.
    NotFound,
    /// Something else changed meanwhile.
    Conflict,
    /// A wait reached its bound.
    TimedOut,
    /// etcd or a host can't be reached.
    Unreachable,
}

impl Kind {
    /// The exit code.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Kind::Refused => 1,
            Kind::Usage => 2,
            Kind::NotFound => 3,
            Kind::Conflict => 4,
            Kind::TimedOut => 5,
            Kind::Unreachable => 69,
        }
    }
}

/// A failure with a way out.
#[derive(Debug)]
pub struct Failure {
    kind: Kind,
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// A failure that is clear by itself.
    pub fn new(kind: Kind, message: impl fmt::Display) -> Self {
        Self {
            kind,
            message: message.to_string(),
            hint: None,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// How an error is shown: the chain of causes, then the hint.
#[must_use]
pub fn render(error: &anyhow::Error) -> String {
    let mut text = format!("error: {error}");
    for cause in error.chain().skip(1) {
        text.push_str("\n  because: ");
        text.push_str(&cause.to_string().replace('\n', "\n    "));
    }
    // Asked of the error, not of its chain: only it looks into what `context` attached.
    let failure = error.downcast_ref::<Failure>();
    if let Some(hint) = failure.and_then(|failure| failure.hint.as_deref()) {
        text.push_str("\nhint: ");
        text.push_str(hint);
    }
    text
}

/// The exit code of an error.
#[must_use]
pub fn exit_code(error: &anyhow::Error) -> u8 {
    error
        .downcast_ref::<Failure>()
        .map_or(1, |failure| failure.kind.exit_code())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn causes_and_hints_are_shown() {
        let error = Err::<(), _>(std::io::Error::other("no route\nto host"))
            .context(Failure::new(Kind::Unreachable, "can't reach etcd").hint("is it up?"))
            .expect_err("an error");
        assert_eq!(
            render(&error),
            "error: can't reach etcd\n  because: no route\n    to host\nhint: is it up?"
        );
    }
}
