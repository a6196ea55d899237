//! Times of the rows of the budget table, by criterion. `python benches/report.py` turns them into BENCHMARKS.md.

use std::time::Duration;

use criterion::{Criterion, Throughput};
use rustix::time::{ClockId, clock_gettime};
use s2pt::bench::{Bench, GIB, Meter, ROWS};

/// Adds up the processor time of the measured parts.
///
/// A row is one thread that never sleeps, so on an idle machine this is the time that passes; on a busy one it leaves
/// out what others ran meanwhile.
struct Clock(Duration);

fn worked() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime)
        .try_into()
        .expect("a time since the thread's start")
}

impl Meter for Clock {
    fn measure(&mut self, body: &mut dyn FnMut()) {
        let start = worked();
        body();
        self.0 += worked() - start;
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .without_plots()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    let bench = Bench::new(GIB).expect("memory for the tables");
    let mut group = criterion.benchmark_group("critical_path");
    for row in ROWS {
        group.throughput(Throughput::Elements(row.operations(&bench)));
        group.bench_function(row.id, |bencher| {
            bencher.iter_custom(|times| {
                let mut clock = Clock(Duration::ZERO);
                for _ in 0..times {
                    row.run(&bench, &mut clock);
                }
                clock.0
            });
        });
    }
    group.finish();
    criterion.final_summary();
}
