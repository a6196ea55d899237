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
    /// The same, with an exchange of another, 0 for 55, each time after.
    AwaitExchanging(usize, usize),
    /// If the first is not 0, an addition to the second: some cells are common in some orders only.
    IfAdd(usize, usize),
    IfLoad(usize, usize),
}

#[derive(Clone, Debug)]
struct Program {
    threads: Vec<Vec<Do>>,
    /// How many accesses of the main thread come before each start and each end of the others.
    before: [usize; 4],
}

/// Each thread stores to a variable of its own, and all exchange the last: loom knows no order of stores that nothing
/// orders, and lets a thread go back from one of them to an older one.
const STORED: usize = 3;
/// Used only behind conditions.
const LATE: usize = STORED + 1;
const VARIABLES: usize = LATE + 1;

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
        use Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
        match self.below(14) {
            0..=3 => Do::Load(self.of(&[0, 0, 1, 1, 2, STORED]), self.of(&[Relaxed, Acquire])),
            4..=6 => Do::Store(thread, value, self.of(&[Relaxed, Release, SeqCst])),
            7 | 8 => {
                let (old, success) = (self.below(2) as u64, self.of(&[Relaxed, Acquire, Release, AcqRel]));
                Do::Exchange(STORED, old, value, success, self.of(&[Relaxed, Acquire]))
            }
            9 => Do::Add(STORED, self.of(&[Relaxed, Acquire, Release])),
            10 => Do::Fence,
            11 => Do::IfAdd(self.below(3), self.of(&[STORED, LATE])),
            12 => Do::IfLoad(self.of(&[0, 1, 2, STORED]), self.of(&[0, 1, 2, STORED])),
            _ => Do::Locked,
        }
    }

    fn program(&mut self) -> Program {
        let (threads, accesses) = self.of(&[(2, 4), (2, 5), (3, 2), (3, 3)]);
        let mut program: Vec<Vec<Do>> = (0..threads)
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
            let mut wait = self.of(&[Do::Await(stores), Do::AwaitBeside(stores, STORED)]);
            if threads == 2 && self.below(2) == 0 {
                wait = Do::AwaitExchanging(stores, STORED);
            }
            accesses.insert(accesses.len() / 2, wait);
            let all = program[0].len();
            return Program {
                threads: program,
                before: [0, 0, all, all],
            };
        }
        let mut before = [0; 4].map(|_| self.below(program[0].len() + 1));
        before.sort_unstable();
        Program {
            threads: program,
            before,
        }
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
                    Do::AwaitExchanging(of, beside) => {
                        let mut backoff = Backoff::new();
                        loop {
                            let found = variables[of].load(Ordering::Acquire);
                            if found != 0 {
                                return Some(found);
                            }
                            let _ = variables[beside].compare_exchange(0, 55, Ordering::AcqRel, Ordering::Relaxed);
                            backoff.wait();
                        }
                    }
                    Do::IfAdd(of, to) => {
                        let found = variables[of].load(Ordering::Acquire);
                        let then = (found != 0).then(|| variables[to].fetch_add(1, Ordering::AcqRel));
                        Some(1000 * found + then.unwrap_or(0))
                    }
                    Do::IfLoad(of, then) => {
                        let found = variables[of].load(Ordering::Acquire);
                        let then = (found != 0).then(|| variables[then].load(Ordering::Relaxed));
                        Some(1000 * found + then.unwrap_or(0))
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
        if search::is_mistaken() {
            told.0.clear(); // what the last search finds must be all
        } else if !search::is_over() {
            told.0.insert(outcome);
        }
    });
    Arc::into_inner(found).unwrap().into_inner().unwrap()
}

macro_rules! run {
    ($atomics:ty, $spawn:path) => {
        |atomics: &Arc<$atomics>, program: &Program| {
            let begin = |accesses: &Vec<Do>| {
                let (atomics, accesses) = (atomics.clone(), accesses.clone());
                $spawn(move || {
                    accesses
                        .into_iter()
                        .filter_map(|access| atomics.access(access))
                        .collect()
                })
            };
            let (mut mine, mut done) = (Vec::new(), 0);
            let mut until = |next: usize| {
                let accesses = &program.threads[0][done..next];
                mine.extend(accesses.iter().filter_map(|&access| atomics.access(access)));
                done = next;
            };
            let mut others = Vec::new();
            for (accesses, before) in program.threads[1..].iter().zip(program.before) {
                until(before);
                others.push(begin(accesses));
            }
            let mut theirs = Outcome::new();
            for (other, &before) in others.into_iter().zip(&program.before[2..]) {
                until(before);
                theirs.push(other.join().unwrap());
            }
            until(program.threads[0].len());
            let mut outcome: Outcome = vec![mine];
            outcome.extend(theirs);
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

/// Two who wait for each other.
#[test]
#[should_panic(expected = "everybody waits")]
fn a_deadlock_fails() {
    let threads = vec![
        vec![Do::Await(1), Do::Store(0, 1, Ordering::Release)],
        vec![Do::Await(0), Do::Store(1, 1, Ordering::Release)],
    ];
    let program = Program {
        threads,
        before: [0, 0, 2, 2],
    };
    outcomes(&program, true, run!(Watched, thread::spawn));
}

/// What the main thread does between two joins was once lost, where the first thread to be joined had ended.
#[test]
fn steps_between_joins_are_tried_at_all_points() {
    let one = Do::Store(1, 11, Ordering::Release);
    let two = [Do::Load(1, Ordering::Acquire), Do::Add(STORED, Ordering::Release)];
    let program = Program {
        threads: vec![vec![Do::Load(STORED, Ordering::Relaxed)], vec![one], two.to_vec()],
        before: [0, 0, 0, 1],
    };
    let (found, _) = outcomes(&program, true, run!(Watched, thread::spawn));
    assert!(found.contains(&vec![vec![0], vec![], vec![0, 0]]), "{found:?}");
}

#[test]
fn cuts_lose_no_outcome() {
    let seeds = std::env::var("S2PT_LOOM_PROGRAMS").map_or(40, |number| number.parse().unwrap());
    same_outcomes(0..seeds);
}
