//! Loads and stores, by how far away they go.

use std::hint::black_box;
use std::time::Duration;

use memmap2::{Advice, MmapMut, MmapOptions};

use super::nanoseconds;
use crate::clock::measure;
use crate::layout::{ENTRIES, shuffled};

const LINE: usize = 64;
const WORDS_A_LINE: usize = LINE / 8;

/// Memory as table frames have it: in huge pages where the kernel gives them, so that the host's TLB is no limit.
fn words(bytes: usize) -> MmapMut {
    let map = MmapOptions::new().len(bytes.max(LINE)).map_anon().expect("memory");
    let _ = map.advise(Advice::HugePage);
    map
}

fn as_words(map: &mut MmapMut) -> &mut [u64] {
    // SAFETY: every bit pattern is a u64.
    let (before, words, _) = unsafe { map.align_to_mut::<u64>() };
    assert!(before.is_empty(), "a mapping starts at a page");
    words
}

/// A random cycle through all lines of a buffer.
pub struct Chase(MmapMut);

impl Chase {
    pub fn new(bytes: usize) -> Self {
        let lines = bytes / LINE;
        let order = shuffled(lines as u64, 0x2545_f491_4f6c_dd1d);
        let mut map = words(lines * LINE);
        let words = as_words(&mut map);
        for (place, &line) in order.iter().enumerate() {
            let next = order[(place + 1) % lines];
            words[line as usize * WORDS_A_LINE] = u64::from(next) * WORDS_A_LINE as u64;
        }
        Self(map)
    }

    /// Nanoseconds of one load.
    pub fn run(&self, steps: u64) -> f64 {
        // SAFETY: as in `as_words`.
        let (_, words, _) = unsafe { self.0.align_to::<u64>() };
        let mut at = 0;
        let mut chase = |steps| (0..steps).for_each(|_| at = words[at as usize]);
        // Once around, or as far as a run goes, so that what fits a cache is in it.
        chase(steps.min((words.len() / WORDS_A_LINE) as u64));
        let time = measure(|| chase(steps));
        black_box(at);
        nanoseconds(time, steps)
    }
}

/// Words of a buffer, each once, in random order; no load needs another.
pub struct Gather {
    order: Vec<u32>,
    map: MmapMut,
}

impl Gather {
    pub fn new(bytes: usize) -> Self {
        let mut map = words(bytes);
        as_words(&mut map).fill(1);
        let order = shuffled((bytes / 8) as u64, 0x9e37_79b9_7f4a_7c15);
        Self { order, map }
    }

    pub fn run(&self, steps: u64) -> f64 {
        // SAFETY: as in `as_words`.
        let (_, words, _) = unsafe { self.map.align_to::<u64>() };
        let passes = steps.div_ceil(self.order.len() as u64);
        let time = measure(|| {
            for _ in 0..passes {
                for &index in &self.order {
                    black_box(words[index as usize]);
                }
            }
        });
        nanoseconds(time, passes * self.order.len() as u64)
    }
}

/// How often a run passes over a buffer: one pass alone is short.
const PASSES: usize = 8;

/// Entries, passed over in order.
///
/// Before each pass the entries are written the other way round, as a table that goes zeroes the frames that the next one
/// takes: a part of them is still in the caches.
pub struct Buffer(MmapMut);

impl Buffer {
    pub fn new(bytes: usize) -> Self {
        let mut map = words(bytes);
        as_words(&mut map).fill(1);
        Self(map)
    }

    /// Nanoseconds an entry of `pass`, which gets all entries and a value that the compiler does not know.
    fn passes(&mut self, pass: impl Fn(&mut [u64], u64)) -> f64 {
        let words = as_words(&mut self.0);
        let mut time = Duration::ZERO;
        for _ in 0..PASSES {
            words.iter_mut().rev().for_each(|word| *word = 0);
            black_box(&mut *words);
            time += measure(|| {
                pass(words, black_box(0x40_0000_0003));
                black_box(&mut *words);
            });
        }
        nanoseconds(time, (PASSES * words.len()) as u64)
    }

    /// A descriptor for each entry.
    pub fn fill(&mut self) -> f64 {
        self.passes(|words, first| {
            for (index, word) in words.iter_mut().enumerate() {
                *word = first + ((index as u64) << 12);
            }
        })
    }

    /// One bit of each entry.
    pub fn update(&mut self) -> f64 {
        self.passes(|words, bit| words.iter_mut().for_each(|word| *word ^= bit))
    }

    /// Frame after frame.
    pub fn zero(&mut self) -> f64 {
        self.passes(|words, _| words.chunks_mut(ENTRIES as usize).for_each(|frame| frame.fill(0)))
    }
}
