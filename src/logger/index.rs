//! Where in a file of records is what: blocks of some 64 KiB, each with its latest time. Pure.
//!
//! Who asks for the last lines reads blocks from the end; who asks for the last ten minutes skips
//! those that hold nothing so recent. 160 of them are a full file.

/// Bytes of records after which a new block begins.
const BLOCK: u64 = 64 * 1024;

/// Records that are next to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Where the first of them begins in the file.
    pub offset: u64,
    /// The latest time of any of them, in milliseconds since 1970.
    pub last_ms: u64,
}

/// A file's blocks, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index(Vec<Block>);

impl Index {
    /// A record begins at `offset`, after all that were added before.
    pub fn add(&mut self, offset: u64, time_ms: u64) {
        match self.0.last_mut() {
            Some(last) if offset < last.offset + BLOCK => last.last_ms = last.last_ms.max(time_ms),
            _ => self.0.push(Block {
                offset,
                last_ms: time_ms,
            }),
        }
    }

    /// Whether the file has no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The blocks of a file of `len` bytes, the last one first: from where to where, and the latest
    /// time.
    pub fn backwards(&self, len: u64) -> impl Iterator<Item = (u64, u64, u64)> {
        let ends = self.0.iter().skip(1).map(|block| block.offset);
        let ends: Vec<u64> = ends.chain([len]).collect();
        let blocks = self.0.iter().zip(ends);
        let spans = blocks.map(|(block, end)| (block.offset, end, block.last_ms));
        // A file that was shortened has fewer than its index says.
        let spans: Vec<_> = spans.filter(|(from, _, _)| *from < len).collect();
        spans.into_iter().rev()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks() {
        let mut index = Index::default();
        assert_eq!(index.backwards(0).count(), 0);
        for (offset, time) in [
            (100, 5),
            (200, 9),
            (300, 7),
            (BLOCK + 100, 3),
            (3 * BLOCK, 4),
        ] {
            index.add(offset, time);
        }
        let got: Vec<_> = index.backwards(3 * BLOCK + 50).collect();
        let want = [
            (3 * BLOCK, 3 * BLOCK + 50, 4),
            (BLOCK + 100, 3 * BLOCK, 3),
            (100, BLOCK + 100, 9),
        ];
        assert_eq!(got, want);
    }
}
