//! The targets in `fuzz/targets.rs`, run on their corpora and on mutations of them.
//!
//! `make test` makes a fixed number of them from a fixed seed; `make fuzz SECONDS=60` goes on for so long
//! with each target (or with TARGET), from a seed of its own. What makes a target panic is written to `fuzz/found`.

#[path = "../fuzz/targets.rs"]
mod targets;

use std::{
    fs,
    panic::catch_unwind,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use targets::{TARGETS, Target};

/// Mutations of each target in an ordinary run.
const USUAL: u32 = 3_000;
/// Longest input.
const LONGEST: usize = 8 << 10;
/// Words that protocols are made of.
const WORDS: [&str; 32] = [
    "\r\n",
    "\n",
    "\r\n\r\n",
    "\0",
    " ",
    "\t",
    ":",
    "=",
    "/",
    "..",
    ",",
    ";",
    "\"",
    "'",
    "@",
    "%",
    "-1",
    "0",
    "18446744073709551616",
    "chunked",
    "Transfer-Encoding: chunked\r\n",
    "Content-Length: 5\r\n",
    "GET / HTTP/1.1\r\n",
    "Host: a\r\n",
    "PROXY TCP4 ",
    "255.255.255.255",
    "::1",
    "[X-Fleet]\n",
    "\u{feff}",
    "é",
    "data 0 0 0 1\n",
    "git-receive-pack ",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let dir = root().join("corpus").join(target);
    let files = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", dir.display());
    let read = |path: PathBuf| fs::read(path).expect("read");
    paths.into_iter().map(read).collect()
}

/// A generator of numbers (xorshift64*): a run can be had again from its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound.max(1)
    }

    /// Some input of the corpus, changed in a few places.
    fn input(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(6) {
            let at = self.below(bytes.len() + 1);
            match self.below(8) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, self.next() as u8),
                2 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                3 if at < bytes.len() => {
                    bytes.remove(at);
                }
                4 => {
                    let other = &corpus[self.below(corpus.len())];
                    let from = self.below(other.len() + 1);
                    bytes.splice(at.., other[from..].iter().copied());
                }
                5 => {
                    let end = at + self.below(bytes.len() - at + 1).min(64);
                    let part = bytes[at..end].to_vec();
                    for _ in 0..=self.below(20) {
                        bytes.splice(at..at, part.iter().copied());
                    }
                }
                _ => {
                    let word = WORDS[self.below(WORDS.len())];
                    bytes.splice(at..at, word.bytes());
                }
            }
            bytes.truncate(LONGEST);
        }
        bytes
    }
}

/// Runs a target on an input; writes the input down when it panics.
fn run((name, target): Target, input: &[u8]) {
    if catch_unwind(|| target(input)).is_ok() {
        return;
    }
    let (dir, mut sum) = (root().join("found"), 0_u64);
    for byte in input {
        sum = (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let path = dir.join(format!("{name}-{sum:016x}"));
    let written = fs::create_dir_all(&dir).and_then(|()| fs::write(&path, input));
    panic!(
        "{name} panics on {:?}: {} ({written:?})",
        String::from_utf8_lossy(input),
        path.display()
    );
}

#[test]
fn corpora() {
    for target in TARGETS {
        for input in corpus(target.0) {
            run(target, &input);
            // And on all of its beginnings.
            for length in 0..input.len().min(512) {
                run(target, &input[..length]);
            }
        }
    }
}

#[test]
fn mutations() {
    let seconds = std::env::var("FUZZ_SECONDS").ok();
    let seconds = seconds.map(|text| text.parse().expect("FUZZ_SECONDS is a number"));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seed = match seconds {
        None => 1,
        Some(_) => now.map_or(1, |now| now.as_nanos() as u64) | 1,
    };
    let only = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let wanted = |target: &Target| only.is_empty() || target.0 == only;
    for target in TARGETS.into_iter().filter(wanted) {
        let (corpus, mut random) = (corpus(target.0), Random(seed));
        let (began, mut count) = (Instant::now(), 0_u32);
        let goes_on = |count: u32| match seconds {
            None => count < USUAL,
            Some(seconds) => began.elapsed() < Duration::from_secs(seconds),
        };
        while goes_on(count) {
            run(target, &random.input(&corpus));
            count += 1;
        }
        println!("{}: {count} inputs, seed {seed}", target.0);
    }
}
