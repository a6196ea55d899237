//! Who takes part, as a list: a contestant's type becomes functions that the runs call once each.

use crate::check::check;
use crate::contestants::aarch64_paging::Paging;
use crate::contestants::alone::Alone;
use crate::contestants::btree::Map;
use crate::contestants::locked::{Lock, Locked};
use crate::contestants::multiarch::{v06, v08};
use crate::contestants::s2pt::{Batch, Calls, ForLock, Handles, Owner};
use crate::contestants::x86_64::Offset;
use crate::layout::Size;
use crate::table::{About, Can, Contestant, Op, Peer, Shared};
use crate::threads::Together;
use crate::{rows, threads};

/// One contestant, its type forgotten.
pub struct Entry {
    pub id: String,
    pub title: String,
    pub about: About,
    /// Name of the lock around it.
    pub lock: Option<&'static str>,
    pub can: fn(Op) -> Can,
    pub check: fn(Size),
    pub run: fn(Op) -> rows::Run,
    /// Only who is shared runs with two threads.
    pub together: Option<fn(Together) -> threads::Run>,
}

fn alone<P: Peer>() -> Entry {
    entry::<Alone<P>>()
}

fn entry<C: Contestant>() -> Entry {
    let about = C::about();
    Entry {
        id: about.id.to_owned(),
        title: about.title.to_owned(),
        about,
        lock: None,
        can: C::can,
        check: check::<C>,
        run: rows::run_of::<C>,
        together: None,
    }
}

fn shared<C: Shared>() -> Entry {
    Entry {
        together: Some(threads::run_of::<C>),
        ..entry::<C>()
    }
}

fn locked<P: Peer, L: Lock<P>>() -> Entry {
    let entry = shared::<Locked<P, L>>();
    Entry {
        id: format!("{}+{}", entry.id, L::NAME),
        title: format!("{}, {} RwLock", entry.title, L::NAME),
        lock: Some(L::NAME),
        ..entry
    }
}

/// A peer behind either lock.
fn both_locks<P: Peer>() -> [Entry; 2] {
    [
        locked::<P, parking_lot::RwLock<P>>(),
        locked::<P, std::sync::RwLock<P>>(),
    ]
}

/// All of them, in the order of the report.
pub fn lineup() -> Vec<Entry> {
    let mut all = vec![
        shared::<Calls<Handles, 3>>(),
        shared::<Batch<Handles, 3>>(),
        entry::<Calls<Owner, 3>>(),
        entry::<Batch<Owner, 3>>(),
        shared::<Calls<Handles, 4>>(),
        shared::<Batch<Handles, 4>>(),
        entry::<Calls<Owner, 4>>(),
        entry::<Batch<Owner, 4>>(),
        alone::<Paging<3>>(),
        alone::<v06::Multiarch<3>>(),
        alone::<v08::Multiarch<3>>(),
        alone::<Paging<4>>(),
        alone::<v06::Multiarch<4>>(),
        alone::<v08::Multiarch<4>>(),
        alone::<Offset>(),
        alone::<Map>(),
    ];
    all.extend(both_locks::<ForLock>());
    all.extend(both_locks::<Paging<3>>());
    all.extend(both_locks::<v06::Multiarch<3>>());
    all.extend(both_locks::<v08::Multiarch<3>>());
    all.extend(both_locks::<Offset>());
    all.extend(both_locks::<Map>());
    all
}
