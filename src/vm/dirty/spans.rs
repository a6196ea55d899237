//! Which pages a harvest protects: few ranges for many bits, since each range is a walk.

use super::bitmap::WORD;

/// Runs of pages to protect: neighbouring words join, holes between the first and the last bit are included.
#[derive(Default)]
pub(super) struct Spans(pub(super) Vec<(u64, u64)>);

impl Spans {
    /// Adds the pages from the lowest to the highest bit of word `index`.
    pub(super) fn add(&mut self, index: u64, bits: u64) {
        if bits == 0 {
            return;
        }
        let first = index * WORD + u64::from(bits.trailing_zeros());
        let end = (index + 1) * WORD - u64::from(bits.leading_zeros());
        match self.0.last_mut() {
            // Same or next word: one run.
            Some((_, last)) if last.div_ceil(WORD) >= index => *last = end,
            _ => self.0.push((first, end)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_join_neighbouring_words_and_keep_holes() {
        let mut spans = Spans::default();
        spans.add(0, 0b1010_0000);
        spans.add(1, 0);
        spans.add(2, 1 << 63);
        spans.add(3, 0b110);
        spans.add(9, u64::MAX);
        assert_eq!(spans.0, [(5, 8), (191, 195), (576, 640)]);
    }

    #[test]
    fn a_span_that_ends_before_its_word_does_joins_the_next_word_only() {
        let mut spans = Spans::default();
        spans.add(0, 1);
        spans.add(1, 1);
        assert_eq!(spans.0, [(0, 65)]);
        let mut spans = Spans::default();
        spans.add(0, 1);
        spans.add(2, 1);
        assert_eq!(spans.0, [(0, 1), (128, 129)]);
    }
}
