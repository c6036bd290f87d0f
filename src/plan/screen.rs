//! What a client sends over HTTP/1, looked at before it is parsed: whatever two parsers could read in two
//! ways is refused, so that no proxy before us and no app behind us sees other requests than we do.
//!
//! Follows the framing from request to request, and parses nothing else: line ends, folded lines, and
//! the headers that say where a body ends. hyper reads the same bytes afterwards and decides by itself;
//! what passes here and is wrong otherwise is its business.

use memchr::memchr;

/// Longest line that is put together from several reads; heads as a whole are bounded by the parser.
const LINE_MAX: usize = 72 << 10;
/// Longest line before a chunk, extensions included.
const CHUNK_LINE_MAX: usize = 1 << 10;

/// A message that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// Where it begins in the bytes that were looked at last; 0 if it began before.
    pub at: usize,
    /// What is wrong.
    pub why: &'static str,
}

/// Looks at one connection's bytes, as they come.
#[derive(Debug, Default)]
pub struct Screen {
    part: Part,
    /// A line whose end has not come yet.
    line: Vec<u8>,
    head: Head,
}

/// What comes next.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Part {
    #[default]
    Head,
    /// So many bytes of a body.
    Body(u64),
    ChunkSize,
    /// So many bytes of a chunk.
    Chunk(u64),
    ChunkEnd,
    Trailers,
}

/// What a head has said by now.
#[derive(Debug, Default)]
struct Head {
    begun: bool,
    length: Option<u64>,
    chunked: bool,
}

impl Screen {
    /// Looks at the next bytes.
    ///
    /// # Errors
    /// When a message in them is refused; nothing may be looked at afterwards.
    pub fn look(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        let (mut at, mut message) = (0, 0);
        while at < bytes.len() {
            let rest = &bytes[at..];
            if let Part::Body(left) | Part::Chunk(left) = &mut self.part {
                let step = usize::try_from(*left).map_or(rest.len(), |left| left.min(rest.len()));
                *left -= step as u64;
                at += step;
                self.part = match self.part {
                    Part::Body(0) => Part::Head,
                    Part::Chunk(0) => Part::ChunkEnd,
                    part => part,
                };
                if self.part == Part::Head {
                    message = at;
                }
                continue;
            }
            let refused = |why| Refused { at: message, why };
            let Some(end) = memchr(b'\n', rest) else {
                self.line.extend_from_slice(rest);
                return self.is_bearable().map_err(refused);
            };
            at += end + 1;
            if self.line.is_empty() {
                self.part = take(self.part, &mut self.head, &rest[..end]).map_err(refused)?;
            } else {
                self.line.extend_from_slice(&rest[..end]);
                self.is_bearable().map_err(refused)?;
                self.part = take(self.part, &mut self.head, &self.line).map_err(refused)?;
                // Connections live long: what a long line took is given back.
                self.line = Vec::new();
            }
            if self.part == Part::Head && !self.head.begun {
                message = at;
            }
        }
        Ok(())
    }

    fn is_bearable(&self) -> Result<(), &'static str> {
        let most = match self.part {
            Part::Head | Part::Trailers => LINE_MAX,
            _ => CHUNK_LINE_MAX,
        };
        (self.line.len() <= most)
            .then_some(())
            .ok_or("a line that is too long")
    }
}

/// Takes a line without its line feed; gives back what comes next.
fn take(part: Part, head: &mut Head, line: &[u8]) -> Result<Part, &'static str> {
    let line = line
        .strip_suffix(b"\r")
        .ok_or("a line that ends without a carriage return")?;
    if memchr(b'\r', line).is_some() {
        return Err("a carriage return within a line");
    }
    match part {
        Part::Head if line.is_empty() && head.begun => {
            let Head {
                length, chunked, ..
            } = std::mem::take(head);
            match (length, chunked) {
                (Some(_), true) => Err("Content-Length beside Transfer-Encoding"),
                (_, true) => Ok(Part::ChunkSize),
                (None | Some(0), false) => Ok(Part::Head),
                (Some(length), false) => Ok(Part::Body(length)),
            }
        }
        // Blank lines before a request are borne by everybody.
        Part::Head if line.is_empty() => Ok(Part::Head),
        Part::Head if !head.begun => {
            head.begun = true;
            Ok(Part::Head)
        }
        Part::Head => header(head, line).map(|()| Part::Head),
        Part::ChunkSize => match chunk_size(line)? {
            0 => Ok(Part::Trailers),
            size => Ok(Part::Chunk(size)),
        },
        Part::ChunkEnd if line.is_empty() => Ok(Part::ChunkSize),
        Part::ChunkEnd => Err("a chunk that is longer than it says"),
        Part::Trailers if line.is_empty() => Ok(Part::Head),
        Part::Trailers if line.starts_with(b" ") || line.starts_with(b"\t") => Err(FOLDED),
        // Bodies have no lines: they are never taken here.
        Part::Trailers | Part::Body(_) | Part::Chunk(_) => Ok(part),
    }
}

const FOLDED: &str = "a folded header";

fn header(head: &mut Head, line: &[u8]) -> Result<(), &'static str> {
    if line.starts_with(b" ") || line.starts_with(b"\t") {
        return Err(FOLDED);
    }
    let colon = memchr(b':', line).ok_or("a header without a colon")?;
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    if name.trim_ascii().len() != name.len() {
        return Err("a blank before a colon");
    }
    if name.eq_ignore_ascii_case(b"content-length") {
        let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        let length = digits
            .then(|| std::str::from_utf8(value).ok()?.parse().ok())
            .flatten()
            .ok_or("a Content-Length that is no number")?;
        if head.length.replace(length).is_some() {
            return Err("several Content-Lengths");
        }
    } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
        if head.chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err("a Transfer-Encoding besides chunked");
        }
        head.chunked = true;
    }
    Ok(())
}

fn chunk_size(line: &[u8]) -> Result<u64, &'static str> {
    // What follows a semicolon says nothing that anybody has to know.
    let end = memchr(b';', line).unwrap_or(line.len());
    let digits = line[..end].trim_ascii_end();
    let size = (1..=16).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    size.then(|| u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok())
        .flatten()
        .ok_or("a chunk's size that is no number")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn look(bytes: &[u8]) -> Result<(), Refused> {
        Screen::default().look(bytes)
    }

    #[test]
    fn what_is_plain_passes_and_ends_where_it_ends() {
        for text in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n\n\n\n",
            "POST / HTTP/1.1\r\nCONTENT-LENGTH:  0 \r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\n\n\n\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nA;x=\"y\"\r\n0123456789\r\n0;z\r\nT: 1\r\n\r\n",
        ] {
            assert_eq!(look(text.as_bytes()), Ok(()), "{text:?}");
            // Whatever follows is a message of its own, found where it begins.
            let next = format!("{text}GET / HTTP/1.1\nHost: a\r\n\r\n");
            let refused = look(next.as_bytes()).expect_err("refused");
            assert_eq!(refused.at, text.len(), "{text:?}: {}", refused.why);
            assert_eq!(look(text.repeat(3).as_bytes()), Ok(()), "{text:?}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let post =
            |headers: &str, body: &str| format!("POST / HTTP/1.1\r\n{headers}\r\n\r\n{body}");
        let chunked = |body: &str| post("Transfer-Encoding: chunked", body);
        for (text, why) in [
            (
                "GET / HTTP/1.1\nHost: a\r\n\r\n".to_owned(),
                "without a carriage",
            ),
            (post("Host: a\nX: 1", ""), "without a carriage"),
            (
                "GET / HTTP/1.1\r\nHost: a\r\n\n".to_owned(),
                "without a carriage",
            ),
            (
                post("X: a\rTransfer-Encoding: chunked", ""),
                "within a line",
            ),
            (post("X: a\r\n b", ""), "folded"),
            (post("X: a\r\n\tTransfer-Encoding: chunked", ""), "folded"),
            ("GET / HTTP/1.1\r\n Host: a\r\n\r\n".to_owned(), "folded"),
            (
                post("Content-Length: 1\r\nContent-Length: 1", "x"),
                "several",
            ),
            (
                post("Content-Length: 1\r\ncontent-length: 2", "xx"),
                "several",
            ),
            (post("Content-Length: 1, 1", "x"), "no number"),
            (post("Content-Length: +1", "x"), "no number"),
            (post("Content-Length: 0x1", "x"), "no number"),
            (post("Content-Length:", "x"), "no number"),
            (
                post("Content-Length: 99999999999999999999", "x"),
                "no number",
            ),
            (post("Content-Length : 1", "x"), "blank before a colon"),
            (
                post("Transfer-Encoding : chunked", "0\r\n\r\n"),
                "blank before a colon",
            ),
            (
                post(
                    "Content-Length: 4\r\nTransfer-Encoding: chunked",
                    "0\r\n\r\n",
                ),
                "beside",
            ),
            (
                post(
                    "Transfer-Encoding: chunked\r\nContent-Length: 4",
                    "0\r\n\r\n",
                ),
                "beside",
            ),
            (
                post("Transfer-Encoding: gzip, chunked", "0\r\n\r\n"),
                "besides chunked",
            ),
            (
                post("Transfer-Encoding: chunked, identity", "0\r\n\r\n"),
                "besides chunked",
            ),
            (
                post("Transfer-Encoding: \u{b}chunked", "0\r\n\r\n"),
                "besides chunked",
            ),
            (
                post("Transfer-Encoding: chunked\r\nTransfer-Encoding: x", ""),
                "besides chunked",
            ),
            (post("No colon", ""), "without a colon"),
            (chunked("1\nx\r\n0\r\n\r\n"), "without a carriage"),
            (chunked("1;a\nb\r\nx\r\n0\r\n\r\n"), "without a carriage"),
            (chunked("1;a\rb\r\nx\r\n0\r\n\r\n"), "within a line"),
            (chunked("1\r\nxy\r\n0\r\n\r\n"), "longer than it says"),
            (chunked("0x1\r\nx\r\n0\r\n\r\n"), "no number"),
            (chunked("-1\r\nx\r\n0\r\n\r\n"), "no number"),
            (chunked("\r\nx"), "no number"),
            (chunked("11111111111111111\r\nx"), "no number"),
            (chunked("0\r\nA: 1\n\r\n"), "without a carriage"),
            (chunked("0\r\nA: 1\r\n b\r\n\r\n"), "folded"),
        ] {
            let refused = look(text.as_bytes()).expect_err(&text);
            assert!(refused.why.contains(why), "{text:?}: {}", refused.why);
            assert_eq!(refused.at, 0, "{text:?}");
        }
        let endless = vec![b'x'; LINE_MAX + 1];
        assert!(look(&endless).is_err());
        let endless = chunked(&"1;".repeat(CHUNK_LINE_MAX));
        assert!(look(endless.as_bytes()).is_err());
    }

    proptest! {
        /// However the bytes are cut, the judgement is the same, and falls at the same message.
        #[test]
        fn reads_may_end_anywhere(
            parts in prop::collection::vec(prop_oneof![
                Just("GET / HTTP/1.1\r\n".to_owned()), Just("\r\n".to_owned()), Just("\n".to_owned()),
                Just("Content-Length: 5\r\n".to_owned()), Just("Transfer-Encoding: chunked\r\n".to_owned()),
                Just("X: 1\r\n".to_owned()), Just("5\r\nabcde\r\n".to_owned()), Just("0\r\n\r\n".to_owned()),
                Just(" ".to_owned()), Just("\r".to_owned()), "[a-f0-9:;\r\n ]{0,6}",
            ], 0..12),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let bytes = parts.concat().into_bytes();
            let whole = look(&bytes);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut screen = Screen::default();
            let mut cut = Ok(());
            for pair in cuts.windows(2) {
                if let Err(refused) = screen.look(&bytes[pair[0]..pair[1]]) {
                    cut = Err((pair[0], refused));
                    break;
                }
            }
            match (whole, cut) {
                (Ok(()), Ok(())) => {}
                (Err(one), Err((before, other))) => {
                    prop_assert_eq!(one.why, other.why);
                    // Begun in an earlier read, or found in this one.
                    prop_assert!(other.at == 0 || before + other.at == one.at);
                }
                (one, other) => prop_assert!(false, "{:?} or {:?}", one, other),
            }
        }

        #[test]
        fn bodies_may_hold_anything(body in prop::collection::vec(any::<u8>(), 0..300), chunk in 1usize..50) {
            let mut bytes = format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
            bytes.extend_from_slice(&body);
            bytes.extend_from_slice(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
            for chunk in body.chunks(chunk) {
                bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n\r\n");
            prop_assert_eq!(look(&bytes), Ok(()));
        }
    }
}
