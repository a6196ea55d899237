//! Every pair of moves on one entry, every interleaving to its end.
//!
//! An agent does what an operation does with an entry: reads it, decides, exchanges, and tries again if a peer was faster; it
//! waits for LOCKED and goes away at FROZEN. Two of them at once must end as if one had come after the other, both in what
//! they found and in what they left. Beside the moves of `entry.rs` stands the hardware, which reads and exchanges the
//! entry without asking anybody.

use super::super::entry::Table;
use super::super::reclaim::Access;
use super::{Tree, View, spawn, tree};
use crate::arch::{Attrs, Format, FormatOptions, Geometry, Level, Pa, Prot, Pte};
use crate::memory::TableMemory;
use crate::sync::{Arc, Backoff, Ordering, explore_each};

/// What is done to the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Agent {
    /// A fault fills a hole with the leaf at this address.
    Publish(u64),
    /// An owner's mark comes.
    Mark(u64),
    /// A right is given.
    Widen,
    /// A right is taken.
    Narrow,
    /// The access flag is taken.
    Age,
    /// A leaf gets another output: break, make.
    Replace(u64),
    /// A leaf goes: break, EMPTY.
    Remove,
    /// The table is unlinked.
    Freeze,
    /// The table is to be unlinked, but a young leaf calls that off.
    FreezeOld,
    /// The MMU reads.
    HardwareRead,
    /// The MMU writes, and keeps dirty state.
    HardwareWrite,
}

use Agent::{Age, Freeze, FreezeOld, HardwareRead, HardwareWrite, Mark, Narrow, Publish, Remove, Replace, Widen};

const AGENTS: [Agent; 11] = [
    Publish(0x4_0000),
    Mark(7),
    Widen,
    Narrow,
    Age,
    Replace(0x8_0000),
    Remove,
    Freeze,
    FreezeOld,
    HardwareRead,
    HardwareWrite,
];

/// Which entries the agents begin with: nothing, and leaves that differ in what the agents care for.
fn beginnings(format: &Format) -> [Pte; 4] {
    let leaf = |prot, af, dbm| {
        let attrs = Attrs {
            af,
            dbm,
            ..Attrs::new(prot)
        };
        format.leaf(Level::L3, Pa::new(0xc_0000), &attrs).unwrap()
    };
    [
        Pte::EMPTY,
        leaf(Prot::R, false, false),
        leaf(Prot::RW, true, false),
        leaf(Prot::R, false, true), // clean, and hardware may make it dirty
    ]
}

/// What an agent found, where it did something.
type Found = Option<Pte>;

impl Agent {
    /// Two owners of one unlink there are not: the entry above is LOCKED by one.
    fn may_meet(self, other: Self) -> bool {
        let freezes = |agent| matches!(agent, Freeze | FreezeOld);
        !(freezes(self) && freezes(other))
    }

    /// Whether there are moments at which the other finds nothing, which no order of the two explains.
    fn hides_from(self, other: Self) -> bool {
        match self {
            FreezeOld => true,
            Replace(_) => matches!(other, HardwareRead | HardwareWrite),
            _ => false,
        }
    }

    fn act(self, view: &View<'_>) -> Found {
        if matches!(self, HardwareRead | HardwareWrite) {
            return self.access(view);
        }
        let guard = view.access.pin();
        let table = view.root_table(&guard);
        match self {
            Freeze => view.freeze(table, 0),
            FreezeOld => {
                let last = view.freeze(table, 0)?;
                let young = last.is_valid() && last.raw() & Format::AF_BIT != 0;
                if young {
                    view.thaw(table, 0);
                }
                (!young).then_some(last)
            }
            _ => self.change(view, table),
        }
    }

    fn change(self, view: &View<'_>, table: Table<'_>) -> Found {
        let mut backoff = Backoff::new();
        loop {
            let found = view.load(table, 0);
            if found.is_locked() {
                backoff.wait();
                continue;
            }
            if found.is_frozen() {
                return None;
            }
            if self.exchange(view, table, found)? {
                return Some(found);
            }
        }
    }

    /// `None`: nothing to do here; false: a peer was faster.
    fn exchange(self, view: &View<'_>, table: Table<'_>, found: Pte) -> Option<bool> {
        let with = |bits: u64| Pte::from_raw(found.raw() | bits);
        let without = |bits: u64| Pte::from_raw(found.raw() & !bits);
        let leaf = |pa| {
            view.format()
                .leaf(Level::L3, Pa::new(pa), &Attrs::new(Prot::RW))
                .unwrap()
        };
        let done = match self {
            Publish(pa) if found.is_empty() => view.publish(table, 0, found, leaf(pa)),
            Mark(owner) if !found.is_valid() => view.mark(table, 0, found, Pte::annotated(owner)?),
            Widen if found.is_valid() => view.change(table, 0, found, with(Format::WRITE_BIT)),
            Narrow if found.is_valid() => view.change(table, 0, found, without(Format::WRITE_BIT | Format::DBM_BIT)),
            Age if found.is_valid() => view.change(table, 0, found, without(Format::AF_BIT)),
            Replace(_) | Remove if found.is_valid() => {
                let locked = view.lock(table, 0, found);
                if locked.is_ok() {
                    let new = if let Replace(pa) = self { leaf(pa) } else { Pte::EMPTY };
                    view.make(table, 0, new);
                }
                locked
            }
            _ => return None,
        };
        Some(done.is_ok())
    }

    /// What the MMU does with FEAT_HAFDBS: it answers to the value that it read, or to the one that it changed.
    fn access(self, view: &View<'_>) -> Found {
        let entry = &view.core.memory.table(view.core.root)[0];
        loop {
            let found = Pte::from_raw(entry.load(Ordering::Acquire));
            if !found.is_valid() {
                return None;
            }
            let dirty = if self == HardwareWrite { Format::WRITE_BIT } else { 0 };
            let missing = (Format::AF_BIT | dirty) & !found.raw();
            if missing & Format::WRITE_BIT != 0 && found.raw() & Format::DBM_BIT == 0 {
                return None; // a permission fault
            }
            let new = found.raw() | missing;
            let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
            if missing == 0 || entry.compare_exchange(found.raw(), new, success, failure).is_ok() {
                return Some(found);
            }
        }
    }
}

/// A table of one level whose first entry is this.
fn table(entry: Pte) -> Arc<Tree> {
    let table = tree(1, 1);
    table.memory().table(table.root())[0].store(entry.raw(), Ordering::Relaxed);
    table
}

fn left(table: &Tree) -> Pte {
    Pte::from_raw(table.memory().table(table.root())[0].load(Ordering::Acquire))
}

/// What each of them found, and what is left.
type Outcome = (Found, Found, Pte);

/// With the first before the second.
fn in_order(entry: Pte, first: Agent, second: Agent) -> Outcome {
    let table = table(entry);
    let view = table.handle();
    let found = (first.act(&view), second.act(&view));
    (found.0, found.1, left(&table))
}

/// Without the second, who came at a moment at which there was nothing for him: a fault, or a restart at the root.
fn without(entry: Pte, first: Agent) -> Outcome {
    let table = table(entry);
    (first.act(&table.handle()), None, left(&table))
}

/// The table's answers with both changing places.
fn turned((mine, theirs, left): Outcome) -> Outcome {
    (theirs, mine, left)
}

fn pair(entry: Pte, mine: Agent, theirs: Agent) {
    let mut allowed = vec![in_order(entry, mine, theirs), turned(in_order(entry, theirs, mine))];
    if mine.hides_from(theirs) {
        allowed.push(without(entry, mine));
    }
    if theirs.hides_from(mine) {
        allowed.push(turned(without(entry, theirs)));
    }
    let table = table(entry);
    let peer = spawn(&table, move |view| theirs.act(view));
    let mine_found = mine.act(&table.handle());
    let theirs_found = peer.join().unwrap();
    let outcome = (mine_found, theirs_found, left(&table));
    assert!(
        allowed.contains(&outcome),
        "{mine:?} beside {theirs:?} on {entry:?}: {outcome:?} is none of {allowed:?}"
    );
}

/// Every agent that may meet this one, from each beginning.
fn pairs_of(mine: Agent) {
    let format = Format::new(&Geometry::tiny(1, 1), FormatOptions::default());
    let peers = AGENTS.into_iter().filter(|&theirs| mine.may_meet(theirs));
    let models = peers.flat_map(|theirs| beginnings(&format).map(|entry| move || pair(entry, mine, theirs)));
    explore_each(&format!("entry: {mine:?} beside each move"), models);
}

macro_rules! pairs {
    ($($test:ident: $agent:expr;)*) => {
        $(
            #[test]
            fn $test() {
                pairs_of($agent);
            }
        )*
    };
}

pairs! {
    a_publish_beside_each_move: AGENTS[0];
    a_mark_beside_each_move: AGENTS[1];
    a_right_given_beside_each_move: Widen;
    a_right_taken_beside_each_move: Narrow;
    ageing_beside_each_move: Age;
    a_replacement_beside_each_move: AGENTS[5];
    a_removal_beside_each_move: Remove;
    a_freeze_beside_each_move: Freeze;
    a_freeze_called_off_beside_each_move: FreezeOld;
    a_read_by_hardware_beside_each_move: HardwareRead;
    a_write_by_hardware_beside_each_move: HardwareWrite;
}
