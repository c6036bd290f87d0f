//! Keeps the border between the pure core and the edges: the core reads no clock, draws no random
//! number, does no IO and knows no runtime.

use std::{fs, path::Path};

/// Folders and files of the pure core.
const PURE: &[&str] = &[
    "src/model",
    "src/plan",
    "src/render",
    "src/api",
    "src/cert.rs",
    "src/controller/throttle.rs",
    "src/ops/release.rs",
    "src/session",
    "src/store/mirror.rs",
    "src/store/keys.rs",
    "src/store/txn.rs",
    "src/sidecar/args.rs",
    "src/sidecar/frame.rs",
    "src/sidecar/health.rs",
    "src/sidecar/segments.rs",
    "src/sidecar/wire.rs",
    "src/logger/record.rs",
    "src/logger/render.rs",
    "src/agent/ports.rs",
    "src/builder/authorized.rs",
    "src/builder/procfile.rs",
    "src/builder/protocol.rs",
    "src/builder/refs.rs",
    "src/cli/deis/dotenv.rs",
    "src/cli/deis/quote.rs",
    "src/cli/deis/spelling.rs",
    "src/cli/table.rs",
    "src/image/config.rs",
    "src/router/headers.rs",
    "src/router/ledger.rs",
];

/// What must not occur there, outside of tests.
const FORBIDDEN: &[&str] = &[
    "tokio",
    "zbus",
    "etcd_client",
    "git2",
    "reqwest",
    "axum",
    "hyper",
    "std::fs",
    // Addresses are in core::net.
    "std::net",
    "std::process",
    "std::env",
    "std::thread",
    "fs::",
    "Instant::now",
    "SystemTime",
    "Timestamp::now",
    "new_v4",
    "getrandom",
    "println!",
    "eprintln!",
    "tracing",
];

/// Whether a word begins in the line: `fs::` does in `use std::fs::File`, but not in `refs::Sha`.
fn mentions(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(|before: char| before.is_ascii_alphanumeric() || before == '_')
    })
}

fn check(path: &Path, violations: &mut Vec<String>, files: &mut usize) {
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a readable folder") {
            check(&entry.expect("an entry").path(), violations, files);
        }
        return;
    }
    if path.extension().is_none_or(|extension| extension != "rs")
        || path
            .file_stem()
            .is_some_and(|stem| stem.to_string_lossy().ends_with("tests"))
    {
        return;
    }
    *files += 1;
    let text = fs::read_to_string(path).expect("a readable file");
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    for (number, line) in code.lines().enumerate() {
        let line = line.trim();
        if line.starts_with("//") {
            continue;
        }
        for word in FORBIDDEN.iter().filter(|word| mentions(line, word)) {
            violations.push(format!("{}:{}: {word}: {line}", path.display(), number + 1));
        }
    }
}

#[test]
fn the_core_is_pure() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut violations, mut files) = (Vec::new(), 0);
    for place in PURE {
        let found = files;
        check(&root.join(place), &mut violations, &mut files);
        assert!(files > found, "{place} holds code");
    }
    assert!(
        violations.is_empty(),
        "the pure core touches the world:\n{}",
        violations.join("\n")
    );
}
