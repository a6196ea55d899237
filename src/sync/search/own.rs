//! Which cells only one thread uses: steps on them are none of the search's.
//!
//! At first every cell counts as one thread's. An execution in which a second one uses it, and one of them writes it, shows
//! that this was a mistake. What was left out then is not looked up: loom ends what it has begun, as fast as it goes, and
//! the search begins once more, knowing better. It ends since each time more is known. What has an order from such a cell only
//! has none for loom meanwhile, so nothing is concluded from an execution after a mistake ([`super::is_unseen`]).

/// Which threads have read a cell beside others, and which have written it: a bit each.
#[derive(Clone, Copy, Default)]
struct Users {
    readers: u8,
    writers: u8,
    /// One writes what another uses, so that their steps depend on each other; and whether that was known from the start.
    common: bool,
    known: bool,
}

#[derive(Default)]
pub(super) struct Own {
    /// Of the cells that there are when the first thread begins; all later ones count as common.
    users: Vec<Users>,
    cells: usize,
    mistaken: bool,
    /// The most threads that an execution had, and how many that were when the search began once more.
    most: usize,
    expected: usize,
}

impl Own {
    /// Before an execution.
    pub(super) fn begin(&mut self) {
        self.cells = 0;
    }

    /// Another thread begins, number so-and-so, when there are so many cells.
    pub(super) fn spawned(&mut self, number: usize, cells: usize) {
        if number == 1 {
            self.cells = cells;
        }
        if number >= self.most {
            self.most = number + 1;
            self.mistaken |= self.expected > 0;
        }
    }

    /// Whether this search rests on a mistake; if so, the next will not.
    pub(super) fn again(&mut self) -> bool {
        self.users.iter_mut().for_each(|users| users.known = users.common);
        self.expected = self.most;
        core::mem::take(&mut self.mistaken)
    }

    pub(super) fn is_mistaken(&self) -> bool {
        self.mistaken
    }

    /// How many threads an execution has, if that is known.
    pub(super) fn expected(&self) -> Option<usize> {
        (self.expected > 0).then_some(self.expected)
    }

    /// A thread is about to use a cell: whether it counts as its own, and whether that turns out to be a mistake.
    pub(super) fn uses(&mut self, thread: usize, cell: usize, writes: bool) -> (bool, bool) {
        if cell >= self.cells {
            return (false, false);
        }
        if cell >= self.users.len() {
            self.users.resize(cell + 1, Users::default());
        }
        let (users, me) = (&mut self.users[cell], 1 << thread);
        if users.known {
            return (false, false);
        }
        users.readers |= me;
        if writes {
            users.writers |= me;
        }
        let mistaken = !users.common && users.writers != 0 && users.writers | users.readers != me;
        users.common |= mistaken;
        self.mistaken |= mistaken;
        (true, mistaken)
    }
}
