//! Runs a model through every interleaving, and says how many there were.

use super::{search, unseen, watched};
use std::time::Instant;

/// Explores `body` to the end, and prints a line. With `S2PT_LOOM_UNCUT` no execution is cut short (see `search`).
///
/// # Panics
/// If the model fails.
pub fn explore(name: &str, body: impl Fn() + Sync + Send + 'static) {
    let start = Instant::now();
    Executions::of(body).told(name, start);
}

/// The same for several small models that belong together, each to its end.
pub fn explore_each<M: Fn() + Sync + Send + 'static>(name: &str, models: impl IntoIterator<Item = M>) {
    let start = Instant::now();
    let (mut count, mut sum) = (0, Executions::default());
    for body in models {
        let more = Executions::of(body);
        count += 1;
        sum.all += more.all;
        sum.cut += more.cut;
    }
    sum.told(&format!("{name} ({count} models)"), start);
}

/// All executions of `body`, begun again as often as the search finds that it rests on a mistake.
pub(super) fn check(cuts: bool, body: impl Fn() + Sync + Send + 'static) {
    let body = unseen::Arc::new(move || {
        watched::begin();
        body();
        watched::end();
    });
    search::start(cuts);
    loop {
        let mut builder = loom::model::Builder::new();
        builder.max_branches = 100_000;
        let body = body.clone();
        builder.check(move || body());
        if !search::again() {
            break;
        }
    }
}

/// How many there were, and how many of them were cut short, being repetitions.
#[derive(Default)]
struct Executions {
    all: usize,
    cut: usize,
}

impl Executions {
    fn of(body: impl Fn() + Sync + Send + 'static) -> Self {
        let executions = unseen::Arc::new(unseen::AtomicUsize::new(0));
        let count = executions.clone();
        let cuts = std::env::var_os("S2PT_LOOM_UNCUT").is_none();
        check(cuts, move || {
            count.fetch_add(1, super::Ordering::Relaxed);
            body();
        });
        Self {
            all: executions.load(super::Ordering::Relaxed),
            cut: search::cut(),
        }
    }

    /// The line of a model: what, how many executions, how long.
    fn told(&self, name: &str, start: Instant) {
        println!(
            "loom | {name} | {} | {} cut short | {:.1} s",
            self.all,
            self.cut,
            start.elapsed().as_secs_f64()
        );
    }
}
