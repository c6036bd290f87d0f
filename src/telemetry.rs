//! Logs of the daemons: text lines on stderr, which systemd hands to the journal.

use tracing_subscriber::{EnvFilter, fmt, prelude::*};

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
