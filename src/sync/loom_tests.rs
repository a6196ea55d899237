//! What the search leaves out is nothing: small random programs have the same outcomes with all cuts and without any.
//!
//! A program has two or three threads of a few accesses each, with orderings of all kinds, fences, exchanges, locks and
//! waits. Its outcomes are all that the accesses gave. They are collected three times: with executions cut short, with the
//! watched atomics alone, and with loom's own. The first two must be one set; it must hold the third, in which loom
//! forgets orders.

use super::{AtomicU64, Backoff, Mutex, Ordering, explore, fence, search, thread};
use std::collections::BTreeSet;
use std::sync::Arc;

type Outcome = Vec<Vec<u64>>;

/// One access to a variable.
#[derive(Clone, Copy, Debug)]
enum Do {
    Load(usize, Ordering),
    Store(usize, u64, Ordering),
    Exchange(usize, u64, u64, Ordering, Ordering),
    Add(usize, Ordering),
    Fence,
    Locked,
    /// Until it is not 0.
    Await(usize),
    /// The same, with a look at another and a fence each time before.
    AwaitBeside(usize, usize),
}

type Program = Vec<Vec<Do>>;

/// Each thread stores to a variable of its own, and all exchange the last: loom knows no order of stores that nothing
/// orders, and lets a thread go back from one of them to an older one.
const STORED: usize = 3;
const VARIABLES: usize = STORED + 1;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    fn of<T: Copy>(&mut self, choice: &[T]) -> T {
        choice[self.below(choice.len())]
    }

    fn access(&mut self, thread: usize, value: u64) -> Do {
        use Ordering::{AcqRel, Acquire, Relaxed, Release};
        match self.below(12) {
            0..=3 => Do::Load(self.of(&[0, 0, 1, 1, 2, STORED]), self.of(&[Relaxed, Acquire])),
            4..=6 => Do::Store(thread, value, self.of(&[Relaxed, Release])),
            7 | 8 => {
                let (old, success) = (self.below(2) as u64, self.of(&[Relaxed, Acquire, Release, AcqRel]));
                Do::Exchange(STORED, old, value, success, self.of(&[Relaxed, Acquire]))
            }
            9 => Do::Add(STORED, self.of(&[Relaxed, Acquire, Release])),
            10 => Do::Fence,
            _ => Do::Locked,
        }
    }

    fn program(&mut self) -> Program {
        let (threads, accesses) = self.of(&[(2, 4), (2, 5), (3, 2), (3, 3)]);
        let mut program: Program = (0..threads)
            .map(|thread| {
                (0..accesses)
                    .map(|index| self.access(thread, 10 * thread as u64 + index + 1))
                    .collect()
            })
            .collect();
        // A wait for something that comes in any case.
        if self.below(3) == 0 {
            let waits = self.below(threads);
            let stores = (waits + 1) % threads;
            program[stores].push(Do::Store(stores, 99, Ordering::Release));
            let accesses = &mut program[waits];
            accesses.retain(|access| !matches!(access, Do::Locked));
            let wait = self.of(&[Do::Await(stores), Do::AwaitBeside(stores, STORED)]);
            accesses.insert(accesses.len() / 2, wait);
        }
        program
    }
}

/// What both kinds of atomics can do.
trait Atomics: Send + Sync + 'static {
    fn new() -> Self;
    fn access(&self, access: Do) -> Option<u64>;
}

macro_rules! atomics {
    ($name:ident, $atomic:ty, $mutex:ty, $fence:path) => {
        struct $name {
            variables: [$atomic; VARIABLES],
            lock: $mutex,
        }

        impl Atomics for $name {
            fn new() -> Self {
                Self {
                    variables: [(); VARIABLES].map(|()| <$atomic>::new(0)),
                    lock: <$mutex>::new(0),
                }
            }

            fn access(&self, access: Do) -> Option<u64> {
                let variables = &self.variables;
                match access {
                    Do::Load(of, order) => Some(variables[of].load(order)),
                    Do::Store(of, value, order) => {
                        variables[of].store(value, order);
                        None
                    }
                    Do::Exchange(of, old, new, success, failure) => {
                        let (Ok(found) | Err(found)) = variables[of].compare_exchange(old, new, success, failure);
                        Some(found)
                    }
                    Do::Add(of, order) => Some(variables[of].fetch_add(1, order)),
                    Do::Fence => {
                        $fence(Ordering::SeqCst);
                        None
                    }
                    Do::Locked => {
                        let mut turn = self.lock.lock().unwrap();
                        *turn += 1;
                        Some(*turn)
                    }
                    Do::Await(of) => {
                        let mut backoff = Backoff::new();
                        loop {
                            let found = variables[of].load(Ordering::Acquire);
                            if found != 0 {
                                return Some(found);
                            }
                            backoff.wait();
                        }
                    }
                    Do::AwaitBeside(of, beside) => {
                        let mut backoff = Backoff::new();
                        loop {
                            $fence(Ordering::SeqCst);
                            let seen = variables[beside].load(Ordering::Relaxed);
                            let found = variables[of].load(Ordering::Acquire);
                            if found != 0 {
                                return Some(1000 * seen + found);
                            }
                            backoff.wait();
                        }
                    }
                }
            }
        }
    };
}

atomics!(Watched, AtomicU64, Mutex<u64>, fence);
atomics!(
    Looms,
    loom::sync::atomic::AtomicU64,
    loom::sync::Mutex<u64>,
    loom::sync::atomic::fence
);

/// All outcomes of a program, and how many executions it took.
fn outcomes<A: Atomics>(
    program: &Program,
    cuts: bool,
    run: impl Fn(&Arc<A>, &Program) -> Outcome + Send + Sync + 'static,
) -> (BTreeSet<Outcome>, usize) {
    let found = Arc::new(std::sync::Mutex::new((BTreeSet::new(), 0)));
    let (told, program) = (found.clone(), program.clone());
    explore::check(cuts, move || {
        let outcome = run(&Arc::new(A::new()), &program);
        let mut told = told.lock().unwrap();
        told.1 += 1;
        if !search::is_over() {
            told.0.insert(outcome);
        }
    });
    Arc::into_inner(found).unwrap().into_inner().unwrap()
}

macro_rules! run {
    ($atomics:ty, $spawn:path) => {
        |atomics: &Arc<$atomics>, program: &Program| {
            let others: Vec<_> = program[1..]
                .iter()
                .cloned()
                .map(|accesses| {
                    let atomics = atomics.clone();
                    $spawn(move || {
                        accesses
                            .into_iter()
                            .filter_map(|access| atomics.access(access))
                            .collect()
                    })
                })
                .collect();
            let mine = program[0].iter().filter_map(|&access| atomics.access(access)).collect();
            let mut outcome: Outcome = vec![mine];
            outcome.extend(others.into_iter().map(|other| other.join().unwrap()));
            outcome
        }
    };
}

fn same_outcomes(seeds: std::ops::Range<u64>) {
    let mut sums = [0; 4];
    for seed in seeds {
        let program = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)).program();
        let (cut, few) = outcomes(&program, true, run!(Watched, thread::spawn));
        let (whole, many) = outcomes(&program, false, run!(Watched, thread::spawn));
        let (own, _) = outcomes(&program, false, run!(Looms, loom::thread::spawn));
        assert_eq!(cut, whole, "seed {seed}: {program:?}");
        let lost: Vec<_> = own.difference(&cut).collect();
        assert!(lost.is_empty(), "seed {seed}: {program:?} {lost:?}");
        for (sum, more) in sums.iter_mut().zip([few, many, cut.len(), own.len()]) {
            *sum += more;
        }
    }
    let [few, many, outcomes, own] = sums;
    println!(
        "loom | random programs: {few} executions in place of {many}, {outcomes} outcomes, {own} by loom's atomics"
    );
}

#[test]
fn cuts_lose_no_outcome() {
    let seeds = std::env::var("S2PT_LOOM_PROGRAMS").map_or(40, |number| number.parse().unwrap());
    same_outcomes(0..seeds);
}
