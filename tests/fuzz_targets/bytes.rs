//! Choices out of the fuzzer's bytes. Where they run out, the answer is the first choice, so every input means something.

use arbitrary::Unstructured;

/// What is left of an input.
pub struct Bytes<'a>(Unstructured<'a>);

impl<'a> Bytes<'a> {
    pub fn new(input: &'a [u8]) -> Self {
        Self(Unstructured::new(input))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        self.0.arbitrary().unwrap_or(0)
    }

    pub fn word(&mut self) -> u64 {
        self.0.arbitrary().unwrap_or(0)
    }

    pub fn bool(&mut self) -> bool {
        self.byte() & 1 != 0
    }

    /// One in `n`; never, when the bytes have run out.
    pub fn one_in(&mut self, n: u8) -> bool {
        self.byte() % n == n - 1
    }

    pub fn below(&mut self, n: u64) -> u64 {
        u64::from(self.byte()) % n
    }

    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.byte()) % choices.len()]
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        let left = self.0.len();
        self.0.bytes(left).unwrap_or(&[])
    }
}
