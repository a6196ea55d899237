//! How long faults took: many times, kept as a histogram with three significant digits.

use core::time::Duration;

use hdrhistogram::Histogram;

/// Times of one kind of step.
#[derive(Clone)]
pub struct Latencies {
    times: Histogram<u64>,
    /// Which the histogram knows to three digits only.
    max: Duration,
}

impl core::fmt::Debug for Latencies {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Latencies").field(&self.report()).finish()
    }
}

/// What is told of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LatencyReport {
    /// How many steps.
    pub count: u64,
    /// Half of them took no longer.
    pub p50: Duration,
    /// 99 of 100.
    pub p99: Duration,
    /// 999 of 1000.
    pub p999: Duration,
    /// The longest, exactly.
    pub max: Duration,
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

impl Latencies {
    /// None yet.
    ///
    /// # Panics
    /// Never: three digits are a precision that histograms have.
    pub fn new() -> Self {
        Self {
            times: Histogram::new(3).expect("three significant digits"),
            max: Duration::ZERO,
        }
    }

    /// One more, in nanoseconds; nothing takes longer than half a millennium.
    pub fn record(&mut self, time: Duration) {
        // It grows as it needs to, so there is always room.
        let _ = self.times.record(nanoseconds(time));
        self.max = self.max.max(time);
    }

    /// Those of another, too.
    pub fn add(&mut self, other: &Self) {
        let _ = self.times.add(&other.times); // likewise
        self.max = self.max.max(other.max);
    }

    /// The figures.
    pub fn report(&self) -> LatencyReport {
        let at = |quantile| Duration::from_nanos(self.times.value_at_quantile(quantile)).min(self.max);
        LatencyReport {
            count: self.times.len(),
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: self.max,
        }
    }

    /// How many steps took up to each of a few times: upper ends, ascending, and counts. For drawing a distribution.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        let steps = self
            .times
            .iter_log(64, 1.25)
            .skip_while(|step| step.count_since_last_iteration() == 0);
        steps.map(|step| {
            let end = Duration::from_nanos(step.value_iterated_to());
            (end, step.count_since_last_iteration())
        })
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_of_the_times() {
        let mut some = Latencies::new();
        assert_eq!(some.report(), LatencyReport::default());
        for n in 1..=1000u64 {
            some.record(Duration::from_micros(n));
        }
        let mut all = Latencies::new();
        all.record(Duration::from_secs(1));
        all.add(&some);
        let report = all.report();
        assert_eq!((report.count, report.max), (1001, Duration::from_secs(1)));
        for (found, wanted) in [(report.p50, 501), (report.p99, 991), (report.p999, 1000)] {
            let wanted = Duration::from_micros(wanted);
            let off = found.abs_diff(wanted);
            assert!(off < wanted / 500, "{found:?} for {wanted:?}");
        }
        assert_eq!(all.buckets().map(|(_, count)| count).sum::<u64>(), 1001);
    }
}
