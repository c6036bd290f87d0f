//! One end of a session: numbers what it sends, keeps it until it is acknowledged, and goes on after
//! a broken connection where the other end stands. Pure: it says what to send and takes what came.

use std::collections::VecDeque;

use super::frame::{Frame, MAX_PART, Part};

/// Bytes that an end may have unacknowledged before it stops taking in more.
pub const WINDOW: usize = 256 << 10;

/// What a part costs besides its bytes, so that empty ones are no way around the bound.
const OVERHEAD: usize = 64;

/// What an end may hold at most: the window, and the part that goes beyond it.
const MAX_HELD: usize = WINDOW + MAX_PART + 2 * OVERHEAD;

/// Why the other end can't be talked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// A number that can't be.
    #[error("the other end speaks of part {said}; between {from} and {to} were possible")]
    Number {
        /// What it said.
        said: u64,
        /// The least.
        from: u64,
        /// The most.
        to: u64,
    },
    /// It sends without waiting for acknowledgements.
    #[error("the other end sent more than {WINDOW} bytes that were not asked for")]
    Flood,
}

/// Which end this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// It makes the connections and greets first.
    Opens,
    /// It answers greetings.
    Answers,
}

/// One end.
#[derive(Debug)]
pub struct Link {
    role: Role,
    /// The number of the connection; 0 before the first.
    connection: u32,
    /// Whether a greeting is to be sent.
    greet: bool,
    /// Whether both have greeted: what comes before is of an earlier connection.
    open: bool,
    /// Sent, or to be sent, and not acknowledged.
    kept: VecDeque<Part>,
    /// What they cost.
    kept_cost: usize,
    /// Number of the first of them.
    acked: u64,
    /// Number of the part that goes out next.
    next: u64,
    /// How many parts have arrived.
    received: u64,
    /// How many of them were taken.
    taken: u64,
    /// How many of them the other end knows to be taken.
    told: u64,
    /// What those cost that have arrived and were not taken, oldest first, and together.
    held: VecDeque<usize>,
    held_cost: usize,
}

fn cost(part: &Part) -> usize {
    part.bytes.len() + OVERHEAD
}

impl Link {
    const fn new(role: Role) -> Self {
        Self {
            role,
            connection: 0,
            greet: false,
            open: false,
            kept: VecDeque::new(),
            kept_cost: 0,
            acked: 0,
            next: 0,
            received: 0,
            taken: 0,
            told: 0,
            held: VecDeque::new(),
            held_cost: 0,
        }
    }

    /// The end that makes the connections.
    #[must_use]
    pub const fn opening() -> Self {
        Self::new(Role::Opens)
    }

    /// The end that waits for the other.
    #[must_use]
    pub const fn answering() -> Self {
        Self::new(Role::Answers)
    }

    /// A new connection was made (for the end that makes them).
    pub const fn connected(&mut self) {
        self.connection = self.connection.wrapping_add(1);
        self.greet = true;
        self.open = false;
    }

    /// Whether both ends have greeted each other on this connection.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.open
    }

    /// Bytes that may be pushed now; with none, the source is not to be read.
    #[must_use]
    pub const fn room(&self) -> usize {
        let room = WINDOW.saturating_sub(self.kept_cost);
        if room < MAX_PART { room } else { MAX_PART }
    }

    /// Whether the other end has taken all that was pushed.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.kept.is_empty()
    }

    /// Puts a part in line. More than [`Link::room`] is taken too, once: a status always fits.
    pub fn push(&mut self, part: Part) {
        self.kept_cost += cost(&part);
        self.kept.push_back(part);
    }

    /// The oldest part that has arrived was taken to where it belongs.
    pub fn take(&mut self) {
        if let Some(cost) = self.held.pop_front() {
            self.held_cost -= cost;
            self.taken += 1;
        }
    }

    /// Whether there is something to send.
    #[must_use]
    pub fn wants(&self) -> bool {
        let unsent = self.next - self.acked < self.kept.len() as u64;
        self.greet || (self.open && (self.told < self.taken || unsent))
    }

    /// What to send next, if anything.
    pub fn next_frame(&mut self) -> Option<Frame> {
        if self.greet {
            self.greet = false;
            // What was taken is told again: an acknowledgement may have been lost.
            self.told = 0;
            return Some(Frame::Have {
                connection: self.connection,
                parts: self.received,
            });
        }
        if !self.open {
            return None;
        }
        if self.told < self.taken {
            self.told = self.taken;
            return Some(Frame::Ack(self.taken));
        }
        let at = usize::try_from(self.next - self.acked).ok()?;
        let part = self.kept.get(at)?;
        self.next += 1;
        Some(Frame::Part(part.clone()))
    }

    /// Takes in what came; a part is to be brought where it belongs, and then [`Link::take`]n.
    ///
    /// # Errors
    /// When the other end breaks the rules: the session is over then.
    pub fn hear(&mut self, frame: Frame) -> Result<Option<Part>, LinkError> {
        match frame {
            Frame::Have { connection, parts } => self.greeted(connection, parts)?,
            // Of an earlier connection: it comes again.
            _ if !self.open => {}
            Frame::Ack(parts) => self.acknowledged(parts)?,
            Frame::Part(part) => {
                self.held_cost += cost(&part);
                if self.held_cost > MAX_HELD {
                    return Err(LinkError::Flood);
                }
                self.held.push_back(cost(&part));
                self.received += 1;
                return Ok(Some(part));
            }
            Frame::Ping | Frame::Pong | Frame::Gone => {}
        }
        Ok(None)
    }

    fn greeted(&mut self, connection: u32, parts: u64) -> Result<(), LinkError> {
        match self.role {
            // An answer to an earlier greeting.
            Role::Opens if connection != self.connection || self.open => return Ok(()),
            Role::Opens => {}
            Role::Answers => {
                self.connection = connection;
                self.greet = true;
            }
        }
        let to = self.acked + self.kept.len() as u64;
        if !(self.acked..=to).contains(&parts) {
            return Err(LinkError::Number {
                said: parts,
                from: self.acked,
                to,
            });
        }
        self.next = parts;
        self.open = true;
        Ok(())
    }

    fn acknowledged(&mut self, parts: u64) -> Result<(), LinkError> {
        if !(self.acked..=self.next).contains(&parts) {
            return Err(LinkError::Number {
                said: parts,
                from: self.acked,
                to: self.next,
            });
        }
        while self.acked < parts {
            self.acked += 1;
            if let Some(part) = self.kept.pop_front() {
                self.kept_cost -= cost(&part);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Channel;
    use proptest::prelude::*;

    fn part(n: u64) -> Part {
        Part::new(Channel::Output, n.to_be_bytes())
    }

    fn number(part: &Part) -> u64 {
        u64::from_be_bytes(part.bytes.clone().try_into().expect("8 bytes"))
    }

    /// Two ends, and a relay between them as the controller is one: the way to the client outlives
    /// the connections of the sidecar, whose last bytes may be lost.
    #[derive(Default)]
    struct Way {
        up: VecDeque<Frame>,
        to_client: VecDeque<Frame>,
        to_relay: VecDeque<Frame>,
        down: VecDeque<Frame>,
    }

    struct Scene {
        sidecar: Link,
        client: Link,
        way: Way,
        connected: bool,
        pushed: [u64; 2],
        got: [Vec<u64>; 2],
        /// Parts that were heard and not yet taken.
        waiting: [usize; 2],
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Connect,
        /// Breaks the connection; so many frames of each direction are lost.
        Break,
        Push(usize),
        Send(usize),
        Relay(usize),
        Hear(usize),
        Take(usize),
    }

    impl Scene {
        fn new() -> Self {
            Self {
                sidecar: Link::opening(),
                client: Link::answering(),
                way: Way::default(),
                connected: false,
                pushed: [0; 2],
                got: [Vec::new(), Vec::new()],
                waiting: [0; 2],
            }
        }

        fn end(&mut self, who: usize) -> &mut Link {
            if who == 0 {
                &mut self.sidecar
            } else {
                &mut self.client
            }
        }

        /// Carries out a step; whether it changed anything.
        fn step(&mut self, step: Step) -> bool {
            match step {
                Step::Connect if !self.connected => {
                    self.connected = true;
                    self.sidecar.connected();
                    true
                }
                Step::Break if self.connected => {
                    self.connected = false;
                    self.way.up.clear();
                    self.way.down.clear();
                    true
                }
                Step::Connect | Step::Break => false,
                Step::Push(who) => {
                    if self.end(who).room() == 0 {
                        return false;
                    }
                    let n = self.pushed[who];
                    self.pushed[who] += 1;
                    self.end(who).push(part(n));
                    true
                }
                Step::Send(who) => {
                    if who == 0 && !self.connected {
                        return false;
                    }
                    let wants = self.end(who).wants();
                    let frame = self.end(who).next_frame();
                    assert_eq!(wants, frame.is_some());
                    let Some(frame) = frame else { return false };
                    if who == 0 {
                        self.way.up.push_back(frame);
                    } else {
                        self.way.to_relay.push_back(frame);
                    }
                    true
                }
                Step::Relay(0) => {
                    let frame = self.way.up.pop_front();
                    frame
                        .map(|frame| self.way.to_client.push_back(frame))
                        .is_some()
                }
                Step::Relay(_) => {
                    if !self.connected {
                        return false;
                    }
                    let frame = self.way.to_relay.pop_front();
                    frame.map(|frame| self.way.down.push_back(frame)).is_some()
                }
                Step::Hear(who) => {
                    let frame = if who == 0 {
                        self.way.down.pop_front()
                    } else {
                        self.way.to_client.pop_front()
                    };
                    let Some(frame) = frame else { return false };
                    let heard = self.end(who).hear(frame).expect("both keep the rules");
                    if let Some(part) = heard {
                        self.got[who].push(number(&part));
                        self.waiting[who] += 1;
                    }
                    true
                }
                Step::Take(who) => {
                    if self.waiting[who] == 0 {
                        return false;
                    }
                    self.waiting[who] -= 1;
                    self.end(who).take();
                    true
                }
            }
        }
    }

    fn steps() -> impl Strategy<Value = Step> {
        let who = 0usize..2;
        prop_oneof![
            2 => Just(Step::Connect),
            1 => Just(Step::Break),
            4 => who.clone().prop_map(Step::Push),
            8 => who.clone().prop_map(Step::Send),
            8 => who.clone().prop_map(Step::Relay),
            8 => who.clone().prop_map(Step::Hear),
            4 => who.prop_map(Step::Take),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        /// Whatever breaks and whenever: all arrives, once, in order; and it comes to an end.
        #[test]
        fn all_arrives_once_and_in_order(steps in prop::collection::vec(steps(), 0..300)) {
            let mut scene = Scene::new();
            for step in steps {
                scene.step(step);
                for who in 0..2 {
                    let want: Vec<u64> = (0..scene.got[who].len() as u64).collect();
                    prop_assert_eq!(&scene.got[who], &want);
                }
            }
            scene.step(Step::Connect);
            let all = [0, 1].map(|who| [Step::Send(who), Step::Relay(who), Step::Hear(who), Step::Take(who)]);
            loop {
                let moved = all.iter().flatten().filter(|step| scene.step(**step)).count();
                if moved == 0 {
                    break;
                }
            }
            prop_assert_eq!(scene.got[1].len() as u64, scene.pushed[0]);
            prop_assert_eq!(scene.got[0].len() as u64, scene.pushed[1]);
            prop_assert!(scene.sidecar.is_settled() && scene.client.is_settled());
        }

        /// No frame from outside makes an end panic or hold more than its bound.
        #[test]
        fn hostile_frames_are_refused_or_harmless(frames in prop::collection::vec(prop_oneof![
            (any::<u32>(), 0u64..5).prop_map(|(connection, parts)| Frame::Have { connection, parts }),
            (0u64..5).prop_map(Frame::Ack),
            (0usize..MAX_PART).prop_map(|n| Frame::Part(Part::new(Channel::Input, vec![0; n]))),
        ], 0..60)) {
            for mut link in [Link::opening(), Link::answering()] {
                link.connected();
                link.push(part(0));
                for frame in frames.clone() {
                    if link.hear(frame).is_err() {
                        break;
                    }
                    while link.next_frame().is_some() {}
                    prop_assert!(link.held_cost <= MAX_HELD);
                }
            }
        }
    }

    #[test]
    fn an_end_that_is_not_taken_from_stops_taking_in() {
        let mut link = Link::opening();
        link.connected();
        let mut pushed = 0;
        while link.room() > 0 {
            let room = link.room();
            link.push(Part::new(Channel::Output, vec![b'x'; room]));
            pushed += room;
        }
        assert!(pushed <= WINDOW && pushed > WINDOW / 2, "{pushed}");
    }
}
