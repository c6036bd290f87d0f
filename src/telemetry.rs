//! Logs of the daemons: text lines on stderr, which systemd hands to the journal.

use tracing_subscriber::{EnvFilter, fmt, prelude::*};

/// An error with its causes on one line. A cause that the text before it ends with is not said twice.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// Starts logging; `RUST_LOG` filters, `info` unless said.
pub fn init() {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,hyper=warn,h2=warn,tonic=warn,tower=warn"));
    // In the journal each line has its time and process already, and colours are noise.
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let layer = fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(true)
        .with_ansi(!journal);
    let registry = tracing_subscriber::registry().with(filter);
    // A second start in the same process (tests) changes nothing.
    let _ = if journal {
        registry.with(layer.without_time()).try_init()
    } else {
        registry.with(layer).try_init()
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Failure {
        text: &'static str,
        source: Option<Box<Failure>>,
    }

    fn failure(texts: &[&'static str]) -> Option<Box<Failure>> {
        let (text, rest) = texts.split_first()?;
        let source = failure(rest);
        Some(Box::new(Failure { text, source }))
    }

    #[test]
    fn causes_are_said_once() {
        let cases: [(&[&'static str], &str); 4] = [
            (&["no image"], "no image"),
            (&["no image", "no registry"], "no image: no registry"),
            (&["no image: away", "away"], "no image: away"),
            (&["no image", "", "away"], "no image: away"),
        ];
        for (texts, want) in cases {
            let error = failure(texts).expect("a text");
            assert_eq!(chain(&*error), want);
        }
    }
}
