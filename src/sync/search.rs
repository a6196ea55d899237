//! What loom's search need not try, because it has tried the same.
//!
//! loom runs a model again and again, depth first, each time with another thread or another value at the last point where
//! there was a choice. It keeps no account of what it has finished, so it runs most orders many times. Here is that
//! account. A *step* is one access to a watched atomic, a lock or a fence; two steps of different threads depend on each
//! other if they are on the same one and one of them writes. An execution that can only repeat is cut short: loom is told
//! not to look for choices in what follows of it, and the rest runs to its end on plain values.
//!
//! - *Of one thread.* What only one thread uses while there are others, or nobody writes, is no step: no order with it can be
//!   told. Which cells are so is learned: at first all are. When one turns out to be common, loom is led to the end of what
//!   it has begun, and the whole search begins again.
//! - *Asleep.* When all that follows from thread A's next step has been tried, and then B's is tried in its place, A's step
//!   need not come again until a step came that depends on it: until then it could as well have come first. (Sleep sets,
//!   Godefroid 1996.) Where loom goes on with a thread that is asleep, since it must go on with one, the others ask to be
//!   tried there. With two threads, the other one is all that loom can try for a conflict. With more, what it tries may be
//!   asleep while a third thread should have been tried, so there each step is set against the next of each thread that is
//!   awake, and loom tries all of these at all points.
//! - *Read too late.* A load may see an older value than the newest. If nothing orders it behind the newest write, the
//!   same happens where the load comes first, which loom tries besides. Then only the newest is read. Where something
//!   orders it behind the write, it reads whatever loom's memory model lets it.
//! - *Waiting.* Who waits for a peer ([`Backoff`](super::Backoff)), of two threads, looks again when something that he has
//!   looked at is written, not before: he would see the same. If he then looks at the same cells, writes nothing and waits
//!   once more while the peer could have gone on, he might as well not have looked: that was tried before, since loom
//!   goes on with the peer first. (A fence in the loop orders more, and allows nothing.) A look that wrote is never in
//!   vain. If nobody can end a wait, the model fails.
//!
//! What stays is each order of dependent steps once, and each value that such an order leaves open. `loom_tests.rs` compares
//! that with the whole.

mod own;
mod waits;

pub(super) use waits::wait;

use own::Own;
use std::cell::RefCell;
use waits::{State, Thread};

/// The main thread of a model and the others.
pub(crate) const THREADS: usize = 3;

type Clock = [u32; THREADS];

/// One step that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    thread: usize,
    cell: usize,
    writes: bool,
    /// Which of the cell's writes it read.
    read: u32,
}

impl Step {
    fn depends_on(self, other: Self) -> bool {
        self.cell == other.cell && (self.writes || other.writes)
    }
}

/// Where an execution went on by `taken`, and others before it by `done`.
#[derive(Debug)]
struct Node {
    taken: Step,
    done: Vec<Step>,
    asleep: Vec<Step>,
}

/// The order of steps on one cell.
#[derive(Clone, Copy, Default)]
struct Order {
    /// Who wrote last, his clock then.
    writer: usize,
    written: Clock,
    /// Joined clocks of who read since.
    read: Clock,
}

#[derive(Default)]
struct Search {
    /// Whether executions are cut short.
    on: bool,
    /// The last execution, as far as this one goes the same way.
    path: Vec<Node>,
    cut: usize,
    own: Own,
    // Of this execution:
    /// Threads that ask to be tried in place of the step at which the execution was cut short: a bit each.
    asking: u8,
    /// Number of steps taken.
    at: usize,
    /// Steps asleep at this moment.
    asleep: Vec<Step>,
    /// The rest is a repetition.
    over: bool,
    running: usize,
    threads: Vec<Thread>,
    orders: Vec<Order>,
    /// The cell that stands for fences.
    fence: usize,
    /// How many writes each cell has seen.
    writes: Vec<u32>,
}

thread_local! {
    // loom runs a whole model on one thread of the operating system.
    static SEARCH: RefCell<Search> = RefCell::default();
}

fn with<R>(work: impl FnOnce(&mut Search) -> R) -> R {
    SEARCH.with(|search| work(&mut search.borrow_mut()))
}

/// Before the first execution of a model.
pub(super) fn start(on: bool) {
    with(|search| {
        *search = Search {
            on,
            ..Search::default()
        };
    });
}

/// After the last execution: whether all must be explored once more, since a cell turned out to be common.
pub(super) fn again() -> bool {
    with(|search| {
        search.path.clear();
        search.own.again()
    })
}

/// Before each execution.
pub(super) fn begin() {
    with(|search| {
        search.at = 0;
        search.asleep.clear();
        search.own.begin();
        search.asking = 0;
        search.over = false;
        search.running = 0;
        search.threads = vec![Thread::new(Clock::default())];
        search.orders.clear();
        search.writes.clear();
    });
}

/// How many executions were cut short.
pub(super) fn cut() -> usize {
    with(|search| search.cut)
}

/// Whether loom sees nothing of what follows, or not all: then it cannot tell what stands in an order.
pub(crate) fn is_unseen() -> bool {
    with(|search| search.over || search.own.is_mistaken())
}

/// Whether all will be explored once more.
#[cfg(test)]
pub(super) fn is_mistaken() -> bool {
    with(|search| search.own.is_mistaken())
}

/// Whether the rest of this execution is a repetition, and runs on plain values.
pub(super) fn is_over() -> bool {
    with(|search| search.over)
}

/// Whether there is no other thread, or none any more.
pub(super) fn alone() -> bool {
    with(|search| search.threads.iter().skip(1).all(|thread| thread.joined))
}

/// The number of the thread that calls; the main one is 0.
pub(crate) fn running() -> usize {
    with(|search| search.running)
}

/// To be called by a thread that goes on after others may have run.
pub(super) fn goes_on(thread: usize) {
    with(|search| search.running = thread);
}

pub(super) fn new_cell() -> usize {
    with(|search| {
        search.orders.push(Order::default());
        search.writes.push(0);
        search.orders.len() - 1
    })
}

/// The cell that stands for fences: nobody looks at it.
pub(super) fn fence_cell() -> usize {
    let cell = new_cell();
    with(|search| search.fence = cell);
    cell
}

/// Whether the newest write of a cell came from a peer and nothing orders the calling thread behind it.
pub(super) fn races(cell: usize) -> bool {
    with(|search| search.races(cell))
}

/// Whether the calling thread is about to use a cell that no other uses in a way that matters: that is no step.
pub(super) fn is_own(cell: usize, writes: bool) -> bool {
    let (own, mistaken) = with(|search| {
        if !search.on {
            return (false, false);
        }
        let (own, mistaken) = search.own.uses(search.running, cell, writes);
        search.over |= mistaken;
        (own, mistaken)
    });
    if mistaken {
        loom::skip_branch();
    }
    own
}

/// Whose steps the one that the calling thread has just made is to be set against, besides what loom does by itself: those
/// before it (its own number), and the next ones of others.
pub(super) fn to_try() -> Vec<usize> {
    with(|search| {
        let me = search.running;
        let many = search.threads.len() > 2;
        // Then the others ask to be tried in its place.
        let asleep = search.at == search.path.len() && search.sleeps(me);
        if !search.on || !many && !asleep {
            return Vec::new();
        }
        let awake = |&thread: &usize| if thread == me { many } else { !search.sleeps(thread) };
        (0..search.threads.len()).filter(awake).collect()
    })
}

/// Whether the calling thread asks to be tried in place of the step at which the execution was cut short. Once.
pub(super) fn asks() -> bool {
    with(|search| {
        let me = 1 << search.running;
        let asks = search.asking & me != 0;
        search.asking &= !me;
        asks
    })
}

/// The calling thread has taken a step; `read` is the write that it read, or stored over. False: the rest is a repetition.
pub(super) fn step(cell: usize, writes: bool, read: u32) -> bool {
    let over = with(|search| {
        let step = Step {
            thread: search.running,
            cell,
            writes,
            read,
        };
        search.step(step)
    });
    if over {
        loom::skip_branch();
    }
    !over
}

/// Number of writes that a cell has seen.
pub(super) fn writes(cell: usize) -> u32 {
    with(|search| search.writes[cell])
}

/// A thread is about to run, begun by the calling one: its number.
pub(super) fn spawned() -> usize {
    with(|search| {
        let number = search.threads.len();
        assert!(number < THREADS, "a model of more than {THREADS} threads");
        search.own.spawned(number, search.orders.len());
        let clock = search.threads[search.running].clock;
        search.threads.push(Thread::new(clock));
        number
    })
}

/// How many threads this execution will have, if that is known, or `most`.
pub(crate) fn expected_threads(most: usize) -> usize {
    with(|search| search.own.expected().unwrap_or(most))
}

pub(super) fn finished(thread: usize) {
    with(|search| search.threads[thread].state = State::Finished);
}

/// The calling thread waits for the end of another.
pub(super) fn joins(thread: usize) {
    with(|search| {
        let running = search.running;
        search.threads[running].state = State::Joining(thread);
    });
}

/// Whether the first waits for the end of the second.
pub(super) fn is_joining(thread: usize, other: usize) -> bool {
    with(|search| search.threads[thread].state == State::Joining(other))
}

pub(super) fn joined(thread: usize) {
    with(|search| {
        search.threads[thread].joined = true;
        let (running, clock) = (search.running, search.threads[thread].clock);
        search.threads[running].state = State::Working;
        join(&mut search.threads[running].clock, &clock);
    });
}

fn join(clock: &mut Clock, other: &Clock) {
    clock
        .iter_mut()
        .zip(other)
        .for_each(|(mine, theirs)| *mine = (*mine).max(*theirs));
}

impl Search {
    fn races(&self, cell: usize) -> bool {
        let order = &self.orders[cell];
        let clock = &self.threads[self.running].clock;
        self.on && clock[order.writer] < order.written[order.writer]
    }

    /// Whether the next step of a thread is asleep at the point where the running one took a step.
    fn sleeps(&self, thread: usize) -> bool {
        let of = |step: &Step| step.thread == thread;
        match self.path.get(self.at) {
            Some(node) => node.asleep.iter().chain(&node.done).chain([&node.taken]).any(of),
            None => self.asleep.iter().any(of),
        }
    }

    fn give_up(&mut self) {
        self.over = true;
        self.cut += 1;
    }

    /// Whether the rest is a repetition.
    fn step(&mut self, step: Step) -> bool {
        if self.on {
            if self.own.is_mistaken() && self.at == self.path.len() {
                self.give_up(); // all will be explored once more
                return true;
            }
            if step.read != self.writes[step.cell] && self.races(step.cell) {
                self.give_up();
                return true;
            }
            if self.repeats(step) {
                self.give_up();
                return true;
            }
        }
        let by_peer = self.orders[step.cell].writer != step.thread;
        let (me, order) = (&mut self.threads[step.thread], &mut self.orders[step.cell]);
        join(&mut me.clock, &order.written);
        if step.writes {
            join(&mut me.clock, &order.read);
        }
        me.clock[step.thread] += 1;
        if step.writes {
            *order = Order {
                writer: step.thread,
                written: me.clock,
                read: Clock::default(),
            };
            self.writes[step.cell] += 1;
        } else {
            join(&mut order.read, &me.clock);
        }
        if step.cell != self.fence {
            me.looks.push((step.cell, step.read + u32::from(step.writes)));
            me.wrote |= step.writes;
        }
        if by_peer && !step.writes {
            me.read.push((step.cell, step.read));
        }
        false
    }

    /// Notes a step on the path.
    fn repeats(&mut self, step: Step) -> bool {
        let fresh = self.at == self.path.len();
        if fresh {
            if self.sleeps(step.thread) {
                // loom went here since it must go somewhere. Who could go on in its place asks for that.
                if self.others(step.thread).any(|state| state == State::Working) {
                    let others = (0..self.threads.len()).filter(|&thread| thread != step.thread);
                    let awake = others.filter(|&thread| !self.sleeps(thread));
                    self.asking = awake.map(|thread| 1 << thread).sum();
                }
                return true;
            }
            self.path.push(Node {
                taken: step,
                done: Vec::new(),
                asleep: core::mem::take(&mut self.asleep),
            });
        } else if self.path[self.at].taken != step {
            self.path.truncate(self.at + 1);
            let node = &mut self.path[self.at];
            if node.taken.thread != step.thread {
                node.done.push(node.taken);
            }
            node.taken = step;
        }
        let node = &self.path[self.at];
        let slept = node.done.iter().chain(&node.asleep);
        if slept.clone().any(|slept| slept.thread == step.thread) {
            return true;
        }
        let still = |slept: &&Step| slept.thread != step.thread && !slept.depends_on(step);
        self.asleep = slept.filter(still).copied().collect();
        self.at += 1;
        false
    }
}
