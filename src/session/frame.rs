//! What goes over the wire. Pure.

/// Most bytes of one part.
pub const MAX_PART: usize = 32 << 10;

/// Most bytes of one frame: a part and its first byte.
pub const MAX_FRAME: usize = MAX_PART + 1;

/// Bytes that say how long a frame is, where nothing else does.
const PREFIX: usize = 4;

/// What a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// Input of the process; an empty part is its end.
    Input = 0,
    /// What it prints.
    Output = 1,
    /// What it prints as errors.
    Errors = 2,
    /// How it ended.
    Status = 3,
    /// The size of its terminal.
    Size = 4,
    /// A signal for it.
    Signal = 5,
}

/// A piece of what a session is about: numbered, acknowledged, never lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What it is.
    pub channel: Channel,
    /// Its content.
    pub bytes: Vec<u8>,
}

impl Part {
    /// A part.
    #[must_use]
    pub fn new(channel: Channel, bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            channel,
            bytes: bytes.into(),
        }
    }
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Counted.
    Part(Part),
    /// How many parts have arrived; `connection` is the number that its opener gave it.
    Have {
        /// Which connection this is about.
        connection: u32,
        /// How many.
        parts: u64,
    },
    /// How many parts were taken.
    Ack(u64),
    /// Is somebody there?
    Ping,
    /// Yes.
    Pong,
    /// Nobody waits for this process.
    Gone,
}

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than any.
    #[error("a frame of {0} bytes: at most {MAX_FRAME} are allowed")]
    Long(usize),
    /// Without its first byte.
    #[error("an empty frame")]
    Empty,
    /// A first byte that says nothing.
    #[error("a frame of the unknown kind {0}")]
    Kind(u8),
    /// A payload that does not fit the kind.
    #[error("a frame of kind {0} with a payload of the wrong length")]
    Payload(u8),
}

impl Frame {
    /// The bytes of a message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1 + 12);
        match self {
            Self::Part(part) => {
                bytes.reserve(part.bytes.len());
                bytes.push(part.channel as u8);
                bytes.extend_from_slice(&part.bytes);
            }
            Self::Have { connection, parts } => {
                bytes.push(8);
                bytes.extend_from_slice(&connection.to_be_bytes());
                bytes.extend_from_slice(&parts.to_be_bytes());
            }
            Self::Ack(parts) => {
                bytes.push(9);
                bytes.extend_from_slice(&parts.to_be_bytes());
            }
            Self::Ping => bytes.push(10),
            Self::Pong => bytes.push(11),
            Self::Gone => bytes.push(12),
        }
        bytes
    }

    /// Reads a message.
    ///
    /// # Errors
    /// When it is none.
    pub fn decode(message: &[u8]) -> Result<Self, FrameError> {
        if message.len() > MAX_FRAME {
            return Err(FrameError::Long(message.len()));
        }
        let (kind, payload) = message.split_first().ok_or(FrameError::Empty)?;
        let wrong = |_| FrameError::Payload(*kind);
        let part = |channel| Ok(Self::Part(Part::new(channel, payload)));
        let bare = |frame| {
            if payload.is_empty() {
                Ok(frame)
            } else {
                Err(FrameError::Payload(*kind))
            }
        };
        match kind {
            0 => part(Channel::Input),
            1 => part(Channel::Output),
            2 => part(Channel::Errors),
            3 => part(Channel::Status),
            4 => part(Channel::Size),
            5 => part(Channel::Signal),
            8 => {
                let (connection, parts) = payload
                    .split_first_chunk()
                    .ok_or(FrameError::Payload(*kind))?;
                Ok(Self::Have {
                    connection: u32::from_be_bytes(*connection),
                    parts: u64::from_be_bytes(parts.try_into().map_err(wrong)?),
                })
            }
            9 => Ok(Self::Ack(u64::from_be_bytes(
                payload.try_into().map_err(wrong)?,
            ))),
            10 => bare(Self::Ping),
            11 => bare(Self::Pong),
            12 => bare(Self::Gone),
            _ => Err(FrameError::Kind(*kind)),
        }
    }

    /// Appends the frame to a byte stream, its length before it.
    pub fn write(&self, stream: &mut Vec<u8>) {
        let message = self.encode();
        let length = u32::try_from(message.len()).expect("invariant: parts are far below 4 GiB");
        stream.extend_from_slice(&length.to_be_bytes());
        stream.extend_from_slice(&message);
    }

    /// The frame with which a byte stream begins, and how many bytes it takes; none when there are
    /// too few bytes yet.
    ///
    /// # Errors
    /// When the stream begins with something else.
    pub fn read(stream: &[u8]) -> Result<Option<(Self, usize)>, FrameError> {
        let Some((length, rest)) = stream.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > MAX_FRAME {
            return Err(FrameError::Long(length));
        }
        match rest.get(..length) {
            Some(message) => Ok(Some((Self::decode(message)?, PREFIX + length))),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames() -> impl Strategy<Value = Frame> {
        let channels = prop::sample::select(vec![
            Channel::Input,
            Channel::Output,
            Channel::Errors,
            Channel::Status,
            Channel::Size,
            Channel::Signal,
        ]);
        prop_oneof![
            (channels, prop::collection::vec(any::<u8>(), 0..100))
                .prop_map(|(channel, bytes)| Frame::Part(Part { channel, bytes })),
            (any::<u32>(), any::<u64>())
                .prop_map(|(connection, parts)| Frame::Have { connection, parts }),
            any::<u64>().prop_map(Frame::Ack),
            Just(Frame::Ping),
            Just(Frame::Pong),
            Just(Frame::Gone),
        ]
    }

    proptest! {
        #[test]
        fn a_stream_of_frames_is_read_as_it_was_written(sent in prop::collection::vec(frames(), 0..20), cut in any::<prop::sample::Index>()) {
            let mut stream = Vec::new();
            sent.iter().for_each(|frame| frame.write(&mut stream));
            // Whatever the first piece is, no frame is read before it is whole.
            let cut = cut.index(stream.len() + 1);
            let (mut at, mut got) = (0, Vec::new());
            for end in [cut, stream.len()] {
                while let Some((frame, taken)) = Frame::read(&stream[at..end]).expect("frames") {
                    got.push(frame);
                    at += taken;
                }
            }
            prop_assert_eq!(at, stream.len());
            prop_assert_eq!(got, sent);
        }

        #[test]
        fn no_bytes_can_do_more_than_be_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(frame) = Frame::decode(&bytes) {
                prop_assert_eq!(frame.encode(), bytes.clone());
            }
            let _ = Frame::read(&bytes);
        }
    }

    #[test]
    fn nonsense() {
        let cases: &[(&[u8], FrameError)] = &[
            (b"", FrameError::Empty),
            (b"\x07", FrameError::Kind(7)),
            (b"\x08\0\0\0\0", FrameError::Payload(8)),
            (b"\x09\0", FrameError::Payload(9)),
            (b"\x0ax", FrameError::Payload(10)),
            (&[1; MAX_FRAME + 1], FrameError::Long(MAX_FRAME + 1)),
        ];
        for (bytes, want) in cases {
            assert_eq!(Frame::decode(bytes), Err(*want));
        }
        // A length that nobody would wait for.
        assert_eq!(
            Frame::read(b"\xff\xff\xff\xff"),
            Err(FrameError::Long(0xffff_ffff))
        );
    }
}
