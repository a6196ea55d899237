//! Who waits for a peer, and what need not be tried of that.

use super::{Clock, Search, goes_on, is_over, with};

/// What a thread is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Working,
    /// For a peer to do something.
    Waiting,
    /// For the end of this one.
    Joining(usize),
    Finished,
}

/// One look at a cell: which, and which write was read.
pub(super) type Look = (usize, u32);

pub(super) struct Thread {
    pub(super) state: State,
    pub(super) joined: bool,
    pub(super) clock: Clock,
    /// What it has read or written since it waited last, and before that: the newest it knows.
    pub(super) looks: Vec<Look>,
    before: Vec<Look>,
    /// Whether it has written since it waited last.
    pub(super) wrote: bool,
    /// What of peers it has read since, and before.
    pub(super) read: Vec<Look>,
    read_before: Vec<Look>,
    /// Whether its last wait ended at once.
    went_on: bool,
}

impl Thread {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            state: State::Working,
            joined: false,
            clock,
            looks: Vec::new(),
            before: Vec::new(),
            wrote: false,
            read: Vec::new(),
            read_before: Vec::new(),
            went_on: false,
        }
    }
}

/// The calling thread waits for a peer.
///
/// # Panics
/// If nothing can end that.
pub(in crate::sync) fn wait() {
    let (me, on) = with(|search| (search.running, search.on && !search.over && search.threads.len() == 2));
    let pause = || {
        loom::thread::yield_now();
        goes_on(me);
    };
    if !on {
        return pause();
    }
    let at_once = with(|search| {
        let thread = &mut search.threads[me];
        let looks = core::mem::take(&mut thread.looks);
        let wrote = core::mem::take(&mut thread.wrote);
        let in_vain = !wrote && ends_as(&thread.before, &looks);
        thread.before = looks;
        let read = core::mem::take(&mut thread.read);
        let same = read == thread.read_before;
        thread.read_before = read;
        let news = search.has_news(me);
        let others_work = search.others(me).any(|state| state == State::Working);
        // Where cells are taken for one thread's by mistake there is no news of them.
        let lost = same && !news && !others_work && !search.own.is_mistaken();
        assert!(!lost, "everybody waits");
        if same && news && !wrote || in_vain && others_work {
            search.give_up(); // the same old values once more, or a look in vain that need not have been
        }
        // It may go on before the peer's next step, where loom would not let it after a pause. Not twice: only a pause
        // makes loom show it newer values in the end.
        let thread = &mut search.threads[me];
        thread.went_on = wrote && news && !thread.went_on;
        if thread.went_on {
            return true;
        }
        search.threads[me].state = State::Waiting;
        false
    });
    if is_over() {
        loom::skip_branch();
        return pause();
    }
    if at_once {
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

/// Whether the first looks end at the cells of the second.
fn ends_as(looks: &[Look], last: &[Look]) -> bool {
    let cells = |looks: &[Look]| {
        looks
            .iter()
            .rev()
            .map(|look| look.0)
            .take(last.len())
            .collect::<Vec<_>>()
    };
    !last.is_empty() && cells(looks) == cells(last)
}

impl Search {
    pub(super) fn others(&self, me: usize) -> impl Iterator<Item = State> {
        let states = self.threads.iter().enumerate().filter(move |&(number, _)| number != me);
        states.map(|(number, thread)| {
            // Who waits and would go on is at work.
            let goes_on = match thread.state {
                State::Waiting => self.has_news(number),
                State::Joining(other) => self.threads[other].state == State::Finished,
                State::Working | State::Finished => false,
            };
            if goes_on { State::Working } else { thread.state }
        })
    }

    /// Whether something that a thread looked at before it waited has been written since.
    fn has_news(&self, thread: usize) -> bool {
        let before = &self.threads[thread].before;
        let is_newest = |cell: usize| before.contains(&(cell, self.writes[cell]));
        before.iter().any(|&(cell, _)| !is_newest(cell))
    }
}
