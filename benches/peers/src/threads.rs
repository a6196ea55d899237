//! The rows of two threads. What counts is the throughput of all, and what a thread alone does in the same round.
//!
//! Time that passes is measured, by the threads themselves: whoever only watches them may be off the processor.

use std::hint::{self, black_box};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::layout::{IPA, PA, output, page};
use crate::pool::pool;
use crate::rows::Plan;
use crate::table::{Shared, Table};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Together {
    FaultsDisjoint,
    FaultsSameBlock,
    Translate,
    TranslateBesideFault,
    FaultBesideTranslate,
    TranslateBesideRemap,
    RemapBesideTranslate,
}

/// One line of the report.
pub struct Row {
    pub what: Together,
    pub id: &'static str,
    pub title: &'static str,
}

pub static ROWS: [Row; 7] = [
    Row {
        what: Together::FaultsDisjoint,
        id: "faults_2_disjoint",
        title: "faults, two threads, each in a GiB of its own",
    },
    Row {
        what: Together::FaultsSameBlock,
        id: "faults_2_same_block",
        title: "faults, two threads, every other page of the same 2 MiB",
    },
    Row {
        what: Together::Translate,
        id: "translate_2",
        title: "translate random pages, two threads",
    },
    Row {
        what: Together::TranslateBesideFault,
        id: "translate_beside_fault",
        title: "translate beside a thread that faults elsewhere: the reader",
    },
    Row {
        what: Together::FaultBesideTranslate,
        id: "fault_beside_translate",
        title: "the same: the thread that faults",
    },
    Row {
        what: Together::TranslateBesideRemap,
        id: "translate_beside_remap",
        title: "translate beside a thread that unmaps and maps neighbours: the reader",
    },
    Row {
        what: Together::RemapBesideTranslate,
        id: "remap_beside_translate",
        title: "the same: the thread that unmaps and maps",
    },
];

/// Throughput of one round in operations a second, together and alone.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    pub together: f64,
    pub alone: f64,
}

pub type Run = fn(&Plan) -> Round;

/// How `C` runs a row.
pub fn run_of<C: Shared>(what: Together) -> Run {
    match what {
        Together::FaultsDisjoint => |plan| {
            let pages = plan.size.pages();
            let (own, other) = (Job::fault(0, pages), Job::fault(pages, pages));
            Round {
                together: all(&round::<C>(plan, &[own, other])),
                alone: all(&round::<C>(plan, &[own])),
            }
        },
        Together::FaultsSameBlock => |plan| {
            let pages = plan.size.pages();
            let every_other = |first| Job::Fault {
                first,
                step: 2,
                count: pages / 2,
            };
            Round {
                together: all(&round::<C>(plan, &[every_other(0), every_other(1)])),
                alone: all(&round::<C>(plan, &[Job::fault(0, pages)])),
            }
        },
        Together::Translate => |plan| Round {
            together: all(&round::<C>(plan, &[Job::Translate, Job::Translate])),
            alone: all(&round::<C>(plan, &[Job::Translate])),
        },
        Together::TranslateBesideFault => |plan| reader_beside::<C>(plan, fault_elsewhere(plan)),
        Together::FaultBesideTranslate => |plan| writer_beside::<C>(plan, fault_elsewhere(plan)),
        Together::TranslateBesideRemap => |plan| reader_beside::<C>(plan, Job::Remap),
        Together::RemapBesideTranslate => |plan| writer_beside::<C>(plan, Job::Remap),
    }
}

fn fault_elsewhere(plan: &Plan) -> Job {
    Job::fault(plan.size.pages(), plan.size.pages())
}

fn reader_beside<C: Shared>(plan: &Plan, writer: Job) -> Round {
    Round {
        together: round::<C>(plan, &[Job::TranslateUntilDone, writer])[0].rate(),
        alone: round::<C>(plan, &[Job::Translate])[0].rate(),
    }
}

fn writer_beside<C: Shared>(plan: &Plan, writer: Job) -> Round {
    Round {
        together: round::<C>(plan, &[Job::TranslateUntilDone, writer])[1].rate(),
        // The first GiB is mapped for it too, so that both walk the same tables.
        alone: round_of::<C>(plan, &[writer], true)[0].rate(),
    }
}

/// What one thread does.
#[derive(Clone, Copy, Debug)]
enum Job {
    /// Faults on `count` pages.
    Fault { first: u64, step: u64, count: u64 },
    /// Translates every even page of the first GiB once, in random order.
    Translate,
    /// The same over and over, until the other thread is done.
    TranslateUntilDone,
    /// Unmaps and maps each odd page of the first GiB. Its table is never empty, so it stays.
    Remap,
}

impl Job {
    const fn fault(first: u64, count: u64) -> Self {
        let step = 1;
        Self::Fault { first, step, count }
    }

    const fn reads(self) -> bool {
        !matches!(self, Self::Fault { .. })
    }

    /// Does it, and says how many operations it was.
    fn work(self, view: &mut impl Table, plan: &Plan, done: &AtomicBool) -> u64 {
        match self {
            Self::Fault { first, step, count } => {
                for number in (first..).step_by(step as usize).take(count as usize) {
                    view.fault(page(number), output(number));
                }
                count
            }
            Self::Translate => translate(view, &plan.order),
            Self::TranslateUntilDone => {
                let mut count = 0;
                for chunk in plan.order.chunks(LOOK).cycle() {
                    count += translate(view, chunk);
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                }
                count
            }
            Self::Remap => {
                for number in (1..plan.size.pages()).step_by(2) {
                    view.unmap_page(page(number));
                    view.fault(page(number), output(number));
                }
                plan.size.pages()
            }
        }
    }
}

/// How many translations a reader does before it looks whether the writer is done.
const LOOK: usize = 256;

fn translate(view: &mut impl Table, order: &[u32]) -> u64 {
    for &number in order {
        let number = u64::from(number) & !1;
        assert_eq!(black_box(view.translate(page(number))), Some(output(number)));
    }
    order.len() as u64
}

/// What one thread did.
struct Span {
    start: Instant,
    end: Instant,
    operations: u64,
}

impl Span {
    fn rate(&self) -> f64 {
        rate(self.operations, self.end - self.start)
    }
}

fn rate(operations: u64, time: Duration) -> f64 {
    operations as f64 / time.as_secs_f64()
}

/// Throughput of all threads, from the first one's start to the last one's end.
fn all(spans: &[Span]) -> f64 {
    let start = spans.iter().map(|span| span.start).min().expect("a thread");
    let end = spans.iter().map(|span| span.end).max().expect("a thread");
    rate(spans.iter().map(|span| span.operations).sum(), end - start)
}

fn round<C: Shared>(plan: &Plan, jobs: &[Job]) -> Vec<Span> {
    round_of::<C>(plan, jobs, jobs.iter().any(|job| job.reads()))
}

/// Runs the jobs on a fresh table, a thread each, all starting at the same time.
fn round_of<C: Shared>(plan: &Plan, jobs: &[Job], mapped: bool) -> Vec<Span> {
    pool().tidy();
    let mut table = C::new(pool());
    if mapped {
        let mut session = table.session();
        C::view(&mut session).map_pages(IPA, plan.size.bytes, PA);
    }
    let (gate, done) = (AtomicUsize::new(jobs.len()), AtomicBool::new(false));
    let table = &table;
    thread::scope(|scope| {
        let start = |&job: &Job| {
            let (gate, done) = (&gate, &done);
            scope.spawn(move || {
                let mut session = table.share();
                let mut view = C::view(&mut session);
                gate.fetch_sub(1, Ordering::AcqRel);
                while gate.load(Ordering::Acquire) > 0 {
                    hint::spin_loop();
                }
                let start = Instant::now();
                let operations = job.work(&mut view, plan, done);
                let end = Instant::now();
                done.store(true, Ordering::Relaxed);
                Span { start, end, operations }
            })
        };
        let workers: Vec<_> = jobs.iter().map(start).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().expect("a worker"))
            .collect()
    })
}
