//! Which release a client connection has seen: while two are served, it doesn't see the older one again.
//!
//! In a rollout both releases take requests for a moment. A page that the new one has delivered asks for
//! what only that has, on the connection that brought it. It is a preference: when none of the newer
//! processes can be asked, an older one is better than none.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::ProcessName;

/// An app and the number of one of its releases, in one word: 32 bits of the app's name, mixed, above
/// the number. Two apps on one connection that are alike in these bits would only be mistaken in whom
/// they prefer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Generation(u64);

impl Generation {
    /// A process's.
    #[must_use]
    pub fn of(process: &ProcessName) -> Self {
        // FNV-1a of 32 bits.
        let bytes = process.app.as_str().bytes();
        let app = bytes.fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        Self(u64::from(app) << 32 | u64::from(process.release.0))
    }

    /// Whether it is not older than what has been seen of its app.
    #[must_use]
    pub const fn is_onward(self, seen: Self) -> bool {
        self.0 >= seen.0 || self.0 >> 32 != seen.0 >> 32
    }
}

/// What a connection has seen last.
#[derive(Debug, Default)]
pub struct Seen(AtomicU64);

impl Seen {
    /// The newest release of the app that answered last.
    #[must_use]
    pub fn get(&self) -> Generation {
        Generation(self.0.load(Ordering::Relaxed))
    }

    /// A process has answered. Answers of HTTP/2 that come at once may be told in any order.
    pub fn answered(&self, by: Generation) {
        if by != self.get() && by.is_onward(self.get()) {
            self.0.store(by.0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(process: &str) -> Generation {
        Generation::of(&process.parse().expect("a process"))
    }

    #[test]
    fn a_connection_goes_forward_only() {
        let seen = Seen::default();
        assert!(of("blog_v7.web.1").is_onward(seen.get()), "at first");
        seen.answered(of("blog_v8.web.1"));
        assert!(!of("blog_v7.web.2").is_onward(seen.get()));
        assert!(of("blog_v8.web.2").is_onward(seen.get()));
        assert!(of("blog_v10.web.1").is_onward(seen.get()));
        assert!(of("shop_v1.web.1").is_onward(seen.get()), "another app");
        seen.answered(of("blog_v7.web.2"));
        assert_eq!(seen.get(), of("blog_v8.web.1"), "there was none newer");
        seen.answered(Generation::default());
        assert!(of("blog_v1.web.1").is_onward(seen.get()), "the platform's");
    }
}
