//! A sink that runs other operations, on another handle, from inside an event.
//!
//! While a TLBI event runs, the operation that offered it holds entries LOCKED; while a cache or allocation event runs, it
//! has read an entry and not yet exchanged it. So a test can stand at an exact point of one operation and let a peer act
//! there, without chance and without threads.

use std::cell::RefCell;

use s2pt::table::{Event, Tlb};

pub type Hook = Box<dyn FnMut(Event) -> bool>;

thread_local! {
    pub static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
}

/// Offers each event to the calling thread's hook; it is gone once it has answered true, and while it runs.
#[derive(Debug)]
pub struct Inject;

impl Tlb for Inject {
    fn event(&self, event: Event) {
        let Some(mut hook) = HOOK.with(|slot| slot.borrow_mut().take()) else {
            return;
        };
        if !hook(event) {
            HOOK.with(|slot| *slot.borrow_mut() = Some(hook));
        }
    }
}

/// Runs `peer` at the first event that `when` selects.
pub fn at(mut when: impl FnMut(Event) -> bool + 'static, peer: impl FnOnce() + 'static) {
    let mut peer = Some(peer);
    let hook = move |event| {
        let now = when(event);
        if now {
            peer.take().expect("a hook runs once")();
        }
        now
    };
    HOOK.with(|slot| *slot.borrow_mut() = Some(Box::new(hook)));
}

/// Whether the hook has run. It is gone after this in any case.
pub fn fired() -> bool {
    HOOK.with(|slot| slot.borrow_mut().take().is_none())
}

pub fn is_stage2_tlbi(event: Event) -> bool {
    matches!(event, Event::Tlbi(tlbi) if tlbi.is_stage2())
}

/// How many events that `which` selects `operation` offers.
#[allow(dead_code, reason = "each test binary uses a part of it")]
pub fn counted(which: fn(Event) -> bool, operation: impl FnOnce()) -> u32 {
    let count = std::rc::Rc::new(std::cell::Cell::new(0));
    let counting = std::rc::Rc::clone(&count);
    let hook = move |event| {
        counting.set(counting.get() + u32::from(which(event)));
        false
    };
    HOOK.with(|slot| *slot.borrow_mut() = Some(Box::new(hook)));
    operation();
    HOOK.with(|slot| *slot.borrow_mut() = None);
    count.get()
}
