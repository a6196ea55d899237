//! Rows measured by a clock: some rounds of some rows.
//!
//! A round does each row once, so that a machine that slows down for a while slows all rows alike, and no row has only
//! good rounds.

use core::time::Duration;

use super::{Bench, BenchError, Meter, Row};

/// What is to be measured: which rows, how often, over how much guest memory.
#[derive(Debug)]
pub struct Run {
    rows: Vec<&'static Row>,
    rounds: u32,
    size: u64,
}

/// What one row took.
#[derive(Clone, Debug)]
pub struct Timed {
    /// The row.
    pub row: &'static Row,
    /// Operations in each round.
    pub operations: u64,
    /// Nanoseconds an operation, one figure a round, in ascending order; never empty.
    pub nanoseconds: Vec<f64>,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Whether all rounds were. If not, `goes_on` ended it.
    pub complete: bool,
    /// The rows that were measured once at least, by the rounds that each had.
    pub rows: Vec<Timed>,
}

impl Timed {
    /// The least of the rounds, in nanoseconds an operation.
    pub fn minimum(&self) -> f64 {
        self.nanoseconds[0]
    }

    /// The middle one of the rounds, in nanoseconds an operation; of an even number the mean of the two in the middle.
    pub fn median(&self) -> f64 {
        let count = self.nanoseconds.len();
        (self.nanoseconds[(count - 1) / 2] + self.nanoseconds[count / 2]) / 2.0
    }
}

impl Run {
    /// Prepares `rounds` rounds of `rows` over `size` bytes of guest memory; measures nothing yet.
    ///
    /// # Errors
    /// [`BenchError::Rounds`] unless there are 1 to 65535; [`BenchError::Size`] as [`Bench::new`].
    pub fn new(rows: Vec<&'static Row>, rounds: u64, size: u64) -> Result<Self, BenchError> {
        Bench::check_size(size)?;
        match u16::try_from(rounds) {
            Ok(count @ 1..) => Ok(Self {
                rows,
                rounds: count.into(),
                size,
            }),
            _ => Err(BenchError::Rounds { rounds }),
        }
    }

    /// How many steps [`measure`](Self::measure) takes: a warm-up and the rounds, of each row.
    pub fn steps(&self) -> u64 {
        self.rows.len() as u64 * (u64::from(self.rounds) + 1)
    }

    /// Measures. `clock` tells the time from some moment on. `goes_on` is asked before each step; as soon as it says no, what
    /// there is up to there is the answer.
    ///
    /// ```
    /// use s2pt::bench::{Row, Run};
    ///
    /// let start = std::time::Instant::now();
    /// let run = Run::new(vec![Row::named("lookup")?], 3, 2 << 20)?;
    /// let measured = run.measure(|| start.elapsed(), || true)?;
    /// assert!(measured.complete && measured.rows[0].minimum() <= measured.rows[0].median());
    /// # Ok::<(), s2pt::bench::BenchError>(())
    /// ```
    ///
    /// # Errors
    /// [`BenchError::Arena`].
    pub fn measure(
        &self,
        clock: impl Fn() -> Duration,
        mut goes_on: impl FnMut() -> bool,
    ) -> Result<Measured, BenchError> {
        let bench = Bench::new(self.size)?;
        let mut rows: Vec<Timed> = self.rows.iter().map(|&row| Timed::new(row, &bench)).collect();
        let mut complete = true;
        'rounds: for round in 0..=self.rounds {
            for timed in &mut rows {
                if !goes_on() {
                    complete = false;
                    break 'rounds;
                }
                let mut stopwatch = Stopwatch(&clock, Duration::ZERO);
                timed.row.run(&bench, &mut stopwatch);
                // The first round warms up: caches, branches, what is made on first use.
                if round > 0 {
                    let nanoseconds = stopwatch.1.as_nanos() as f64 / timed.operations as f64;
                    timed.nanoseconds.push(nanoseconds);
                }
            }
        }
        rows.retain(|timed| !timed.nanoseconds.is_empty());
        for timed in &mut rows {
            timed.nanoseconds.sort_by(f64::total_cmp);
        }
        Ok(Measured { complete, rows })
    }
}

impl Timed {
    fn new(row: &'static Row, bench: &Bench) -> Self {
        Self {
            row,
            operations: row.operations(bench),
            nanoseconds: Vec::new(),
        }
    }
}

struct Stopwatch<'c, C>(&'c C, Duration);

impl<C: Fn() -> Duration> Meter for Stopwatch<'_, C> {
    fn measure(&mut self, body: &mut dyn FnMut()) {
        let start = (self.0)();
        body();
        self.1 += (self.0)().saturating_sub(start);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BLOCK, GIB, Per, ROWS};
    use super::*;
    use core::cell::Cell;

    /// A clock on which each reading is one microsecond later.
    fn ticking() -> impl Fn() -> Duration {
        let readings = Cell::new(0);
        move || {
            readings.set(readings.get() + 1);
            Duration::from_micros(readings.get())
        }
    }

    #[test]
    fn every_row_runs_over_one_block() {
        let run = Run::new(ROWS.iter().collect(), 2, BLOCK).expect("a run");
        let steps = Cell::new(0);
        let timed = run.measure(ticking(), || {
            steps.set(steps.get() + 1);
            true
        });
        let measured = timed.expect("rows that work");
        assert_eq!((steps.get(), measured.complete), (run.steps(), true));
        assert_eq!(measured.rows.len(), ROWS.len());
        for one in measured.rows {
            let operations = if one.row.per == Per::Block { 1 } else { 512 };
            assert_eq!(one.operations, operations, "{}", one.row.id);
            // The clock moved on once in each round.
            assert_eq!(one.nanoseconds, [1000.0 / operations as f64; 2], "{}", one.row.id);
            assert_eq!(one.median(), one.minimum());
        }
    }

    #[test]
    fn names_are_unique_and_found() {
        for row in ROWS {
            assert!(std::ptr::eq(Row::named(row.id).expect("its own name"), row));
        }
        let refused = Row::named("nap").expect_err("no such row").to_string();
        assert!(
            refused.starts_with("no row is called \"nap\"; the rows are fault_page, "),
            "{refused}"
        );
    }

    #[test]
    fn median_of_odd_and_even() {
        let timed = |nanoseconds: &[f64]| Timed {
            row: &ROWS[0],
            operations: 1,
            nanoseconds: nanoseconds.to_vec(),
        };
        assert_eq!(timed(&[1.0, 2.0, 9.0]).median(), 2.0);
        assert_eq!(timed(&[1.0, 2.0, 4.0, 9.0]).median(), 3.0);
        assert_eq!(timed(&[7.0]).median(), 7.0);
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        for rounds in [0, 0x1_0000, u64::MAX] {
            let refused = Run::new(Vec::new(), rounds, BLOCK).expect_err("no such run");
            assert!(
                refused.to_string().contains(&format!("{rounds:#x} rounds")),
                "{refused}"
            );
        }
        for size in [0, 4096, BLOCK + 1, 64 * GIB + BLOCK, u64::MAX] {
            let run = Run::new(Vec::new(), 1, size).map(drop);
            for refused in [run, Bench::new(size).map(drop)] {
                let refused = refused.expect_err("no such guest").to_string();
                assert!(refused.contains(&format!("size {size:#x} ")), "{refused}");
            }
        }
    }

    #[test]
    fn ends_when_asked() {
        let run = Run::new(vec![&ROWS[0], &ROWS[1]], 1000, BLOCK).expect("a run");
        // The warm-up of both, two rounds of the first and one of the second.
        for (steps, rounds) in [(0, vec![]), (2, vec![]), (3, vec![1]), (5, vec![2, 1])] {
            let mut left = steps;
            let ended = run.measure(ticking(), || {
                left -= 1;
                left >= 0
            });
            let ended = ended.expect("what there was");
            let counts: Vec<usize> = ended.rows.iter().map(|timed| timed.nanoseconds.len()).collect();
            assert_eq!((ended.complete, counts), (false, rounds), "{steps}");
        }
    }
}
