//! Runs a model through every interleaving, or as many as its bound allows, and says how many there were.

use super::unseen;
use std::time::Instant;

/// Explores `body` with at most `preemptions` preemptions, or to the end, and prints a line.
///
/// `S2PT_LOOM_PREEMPTIONS` (a number, or `all`) raises the bound of the models that have one.
///
/// # Panics
/// If the model fails, or the variable is neither.
pub fn explore(name: &str, preemptions: Option<usize>, body: impl Fn() + Sync + Send + 'static) {
    let preemptions = preemptions.and_then(|least| raised(least, std::env::var("S2PT_LOOM_PREEMPTIONS").ok()));
    let start = Instant::now();
    let executions = executions(preemptions, body);
    said(name, preemptions, executions, start);
}

/// The same for several small models that belong together, each to its end.
pub fn explore_each<M: Fn() + Sync + Send + 'static>(name: &str, models: impl IntoIterator<Item = M>) {
    let start = Instant::now();
    let counts: Vec<usize> = models.into_iter().map(|body| executions(None, body)).collect();
    said(
        &format!("{name} ({} models)", counts.len()),
        None,
        counts.iter().sum(),
        start,
    );
}

/// The line of a model: what, how far, how many executions, how long.
fn said(name: &str, preemptions: Option<usize>, executions: usize, start: Instant) {
    let bound = preemptions.map_or("all".to_owned(), |bound| format!("<= {bound}"));
    println!(
        "loom | {name} | {bound} | {executions} | {:.1} s",
        start.elapsed().as_secs_f64()
    );
}

fn executions(preemptions: Option<usize>, body: impl Fn() + Sync + Send + 'static) -> usize {
    let executions = unseen::Arc::new(unseen::AtomicUsize::new(0));
    let count = executions.clone();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 100_000;
    builder.check(move || {
        count.fetch_add(1, super::Ordering::Relaxed);
        body();
    });
    executions.load(super::Ordering::Relaxed)
}

fn raised(least: usize, by: Option<String>) -> Option<usize> {
    match by.as_deref() {
        None | Some("") => Some(least),
        Some("all") => None,
        Some(number) => Some(least.max(number.parse().expect("S2PT_LOOM_PREEMPTIONS is a number or `all`"))),
    }
}
