//! Ports that processes are published on: outside the kernel's ephemeral range (32768-60999), so that
//! no outgoing connection ever sits on one. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// The first port.
pub const FIRST: u16 = 20000;
/// The last port.
pub const LAST: u16 = 29999;

/// Who has which port.
#[derive(Debug, Default, Clone)]
pub struct Ports {
    by_name: BTreeMap<String, u16>,
    taken: BTreeSet<u16>,
    next: Option<u16>,
}

impl Ports {
    /// The port of a name: the one that it has, or the next that is neither taken nor refused by
    /// `is_free`. Ports go round, so that one just given back rests a while and a router with an old
    /// table does not meet another app there.
    pub fn take(&mut self, name: &str, is_free: impl Fn(u16) -> bool) -> Option<u16> {
        if let Some(port) = self.by_name.get(name) {
            return Some(*port);
        }
        let start = self.next.unwrap_or(FIRST);
        let port = (start..=LAST)
            .chain(FIRST..start)
            .find(|port| !self.taken.contains(port) && is_free(*port))?;
        self.next = Some(if port == LAST { FIRST } else { port + 1 });
        self.taken.insert(port);
        self.by_name.insert(name.to_owned(), port);
        Some(port)
    }

    /// Notes a port that a name already has.
    pub fn remember(&mut self, name: &str, port: u16) {
        self.release(name);
        self.taken.insert(port);
        self.by_name.insert(name.to_owned(), port);
        let after = if port >= LAST { FIRST } else { port + 1 };
        self.next = Some(self.next.unwrap_or(FIRST).max(after));
    }

    /// Gives a port back.
    pub fn release(&mut self, name: &str) {
        let Some(port) = self.by_name.remove(name) else {
            return;
        };
        // Two may have been found with the same one.
        if !self.by_name.values().any(|other| *other == port) {
            self.taken.remove(&port);
        }
    }

    /// The port of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u16> {
        self.by_name.get(name).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_stays_with_its_name_and_rests_when_given_back() {
        let mut ports = Ports::default();
        assert_eq!(ports.take("a", |_| true), Some(20000));
        assert_eq!(ports.take("a", |_| true), Some(20000));
        assert_eq!(ports.take("b", |port| port != 20001), Some(20002));
        ports.release("a");
        assert_eq!(ports.take("c", |_| true), Some(20003));
    }

    #[test]
    fn they_go_round_and_run_out() {
        let mut ports = Ports::default();
        ports.remember("old", LAST);
        assert_eq!(ports.take("a", |_| true), Some(FIRST));
        for n in 0..(LAST - FIRST - 1) {
            assert!(ports.take(&format!("p{n}"), |_| true).is_some());
        }
        assert_eq!(ports.take("one too many", |_| true), None);
    }
}
