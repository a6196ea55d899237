//! Runs a model through every interleaving, or as many as its bound allows, and says how many there were.

use super::{search, unseen, watched};
use std::time::Instant;

/// Explores `body` with at most `preemptions` preemptions, or to the end, and prints a line.
///
/// `S2PT_LOOM_PREEMPTIONS` (a number, or `all`) raises the bound of the models that have one. With `S2PT_LOOM_UNCUT` no
/// execution is cut short (see `search`).
///
/// # Panics
/// If the model fails, or the variable is neither.
pub fn explore(name: &str, preemptions: Option<usize>, body: impl Fn() + Sync + Send + 'static) {
    let preemptions = preemptions.and_then(|least| raised(least, std::env::var("S2PT_LOOM_PREEMPTIONS").ok()));
    let start = Instant::now();
    let executions = Executions::of(preemptions, body);
    executions.told(name, preemptions, start);
}

/// The same for several small models that belong together, each to its end.
pub fn explore_each<M: Fn() + Sync + Send + 'static>(name: &str, models: impl IntoIterator<Item = M>) {
    let start = Instant::now();
    let (mut count, mut sum) = (0, Executions::default());
    for body in models {
        let more = Executions::of(None, body);
        count += 1;
        sum.all += more.all;
        sum.cut += more.cut;
    }
    sum.told(&format!("{name} ({count} models)"), None, start);
}

/// How many there were, and how many of them were cut short, being repetitions.
#[derive(Default)]
struct Executions {
    all: usize,
    cut: usize,
}

impl Executions {
    fn of(preemptions: Option<usize>, body: impl Fn() + Sync + Send + 'static) -> Self {
        let executions = unseen::Arc::new(unseen::AtomicUsize::new(0));
        let count = executions.clone();
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = preemptions;
        builder.max_branches = 100_000;
        search::start(preemptions.is_none() && std::env::var_os("S2PT_LOOM_UNCUT").is_none());
        builder.check(move || {
            count.fetch_add(1, super::Ordering::Relaxed);
            watched::begin();
            body();
            watched::end();
        });
        Self {
            all: executions.load(super::Ordering::Relaxed),
            cut: search::cut(),
        }
    }

    /// The line of a model: what, how far, how many executions, how long.
    fn told(&self, name: &str, preemptions: Option<usize>, start: Instant) {
        let bound = preemptions.map_or("all".to_owned(), |bound| format!("<= {bound}"));
        println!(
            "loom | {name} | {bound} | {} | {} cut short | {:.1} s",
            self.all,
            self.cut,
            start.elapsed().as_secs_f64()
        );
    }
}

fn raised(least: usize, by: Option<String>) -> Option<usize> {
    match by.as_deref() {
        None | Some("") => Some(least),
        Some("all") => None,
        Some(number) => Some(least.max(number.parse().expect("S2PT_LOOM_PREEMPTIONS is a number or `all`"))),
    }
}
