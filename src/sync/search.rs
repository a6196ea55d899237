//! What loom's search need not try, because it has tried the same.
//!
//! loom runs a model again and again, depth first, each time with another thread or another value at the last point where
//! there was a choice. It keeps no account of what it has finished, so it runs most orders many times. Here is that
//! account. A *step* is one access to a watched atomic, a lock or a fence; two steps of different threads depend on each
//! other if they are on the same one and one of them writes. An execution that can only repeat is cut short: loom is told
//! not to look for choices in what follows of it, and the rest runs to its end on plain values.
//!
//! - *Asleep.* When all that follows from thread A's next step has been tried, and then B's is tried in its place, A's step
//!   need not come again until a step came that depends on it: until then it could as well have come first. (Sleep sets,
//!   Godefroid 1996.) With two threads, the other one is all that loom can try at a point. With more, what loom tries for a
//!   conflict may be asleep while a third thread should have been tried, so there each step is made to conflict with each,
//!   and loom tries all threads at all points.
//! - *Read too late.* A load may see an older value than the newest. If nothing orders it behind the newest write, the
//!   same happens where the load comes first, which loom tries besides. Then only the newest is read. Where something
//!   orders it behind the write, it reads whatever loom's memory model lets it.
//! - *Waiting.* Who waits for a peer ([`Backoff`](super::Backoff)), of two threads, looks again when something that he has
//!   looked at is written, not before: he would see the same. If nobody can end a wait, the model fails.
//!
//! What stays is each order of dependent steps once, and each value that such an order leaves open. `loom_tests.rs` compares
//! that with the whole.

use std::cell::RefCell;

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

/// What a thread is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Working,
    /// For a peer to do something.
    Waiting,
    /// For the end of this one.
    Joining(usize),
    Finished,
}

/// One look at a cell: which, and which write was read.
type Look = (usize, u32);

struct Thread {
    state: State,
    joined: bool,
    clock: Clock,
    /// What it has read or written since it waited last, and before that: the newest it knows.
    looks: Vec<Look>,
    before: Vec<Look>,
    /// What of peers it has read since, and before.
    read: Vec<Look>,
    read_before: Vec<Look>,
}

impl Thread {
    fn new(clock: Clock) -> Self {
        Self {
            state: State::Working,
            joined: false,
            clock,
            looks: Vec::new(),
            before: Vec::new(),
            read: Vec::new(),
            read_before: Vec::new(),
        }
    }
}

#[derive(Default)]
struct Search {
    /// Whether executions are cut short: not where preemptions are bounded, since what is asleep may have been left out.
    on: bool,
    /// The last execution, as far as this one goes the same way.
    path: Vec<Node>,
    cut: usize,
    // Of this execution:
    /// Number of steps taken.
    at: usize,
    /// Steps asleep at this moment.
    asleep: Vec<Step>,
    /// The rest is a repetition.
    over: bool,
    running: usize,
    threads: Vec<Thread>,
    orders: Vec<Order>,
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

/// Before each execution.
pub(super) fn begin() {
    with(|search| {
        search.at = 0;
        search.asleep.clear();
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

/// Whether the rest of this execution is a repetition, and runs on plain values.
pub(crate) fn is_over() -> bool {
    with(|search| search.over)
}

/// Whether there is no other thread, or none any more.
pub(super) fn alone() -> bool {
    with(|search| search.threads.iter().skip(1).all(|thread| thread.joined))
}

/// Whether executions are cut short and there are more than two threads.
pub(super) fn are_many() -> bool {
    with(|search| search.on && search.threads.len() > 2)
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

/// Whether the newest write of a cell came from a peer and nothing orders the calling thread behind it.
pub(super) fn races(cell: usize) -> bool {
    with(|search| search.races(cell))
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
        let clock = search.threads[search.running].clock;
        search.threads.push(Thread::new(clock));
        number
    })
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

/// The calling thread waits for a peer.
///
/// # Panics
/// If nothing can end that.
pub(super) fn wait() {
    let (me, on) = with(|search| (search.running, search.on && !search.over && search.threads.len() == 2));
    let pause = || {
        loom::thread::yield_now();
        goes_on(me);
    };
    if !on {
        return pause();
    }
    let news = with(|search| {
        let thread = &mut search.threads[me];
        thread.before = core::mem::take(&mut thread.looks);
        let read = core::mem::take(&mut thread.read);
        let same = read == thread.read_before;
        thread.read_before = read;
        let news = search.has_news(me);
        assert!(
            !same || news || search.others(me).any(|state| state == State::Working),
            "everybody waits"
        );
        if same && news {
            search.give_up(); // the same old values once more
        } else if !news {
            search.threads[me].state = State::Waiting;
        }
        news
    });
    if is_over() {
        loom::skip_branch();
        return pause();
    }
    if news {
        return;
    }
    loop {
        pause();
        let ends = with(|search| {
            let ends = search.over || search.has_news(me) || search.others(me).all(|state| state != State::Working);
            if ends {
                search.threads[me].state = State::Working;
            } else if search.threads.len() == 2 {
                search.give_up(); // the peer has done nothing that this thread waits for
                search.threads[me].state = State::Working;
            }
            ends
        });
        if ends {
            return;
        }
        if is_over() {
            loom::skip_branch();
            return;
        }
    }
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

    fn others(&self, me: usize) -> impl Iterator<Item = State> {
        let states = self.threads.iter().enumerate().filter(move |&(number, _)| number != me);
        states.map(|(number, thread)| {
            // Who waits and would go on is at work.
            let goes_on = thread.state == State::Waiting && self.has_news(number);
            if goes_on { State::Working } else { thread.state }
        })
    }

    /// Whether something that a thread looked at before it waited has been written since.
    fn has_news(&self, thread: usize) -> bool {
        let before = &self.threads[thread].before;
        let is_newest = |cell: usize| before.contains(&(cell, self.writes[cell]));
        before.iter().any(|&(cell, _)| !is_newest(cell))
    }

    fn give_up(&mut self) {
        self.over = true;
        self.cut += 1;
    }

    /// Whether the rest is a repetition.
    fn step(&mut self, step: Step) -> bool {
        if self.on {
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
        me.looks.push((step.cell, step.read + u32::from(step.writes)));
        if by_peer && !step.writes {
            me.read.push((step.cell, step.read));
        }
        false
    }

    /// Notes a step on the path.
    fn repeats(&mut self, step: Step) -> bool {
        let fresh = self.at == self.path.len();
        if fresh {
            if let Some(index) = self.asleep.iter().position(|asleep| asleep.thread == step.thread) {
                // loom went here since it must go somewhere. If another thread could go on in its place, it is not tried.
                if self.others(step.thread).all(|state| state != State::Working) {
                    return true;
                }
                let thread = self.asleep.swap_remove(index).thread;
                self.asleep.retain(|asleep| asleep.thread != thread);
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
