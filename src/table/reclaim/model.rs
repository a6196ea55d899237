//! Grace periods as a model checker can bear them, and no longer than they must be.
//!
//! Each thread has a slot in which it counts its comings and goings: an odd number says that it is inside. Who retires
//! notes who is inside, and frees when each of them has left once (R8): not a step later than that, if it is at its own
//! leaving or draining.
//!
//! crossbeam-epoch has a fence between entering and the first look, and one between the unlink and the look at who is
//! inside: of one who enters and one who retires, the first sees what the other unlinked, or the second sees him inside.
//! Fences would also order those who enter among each other, and each order is one to explore. Here both add to the slot of
//! the one who enters, who retires adds nothing: whoever comes second reads what the first has left, and that is all. Threads
//! that retire nothing look at no other slot, so a walk brings no order between threads that the real collector would
//! not bring.

use super::*;
use crate::sync::{AtomicUsize, unseen};

/// Threads that a model may have.
const THREADS: usize = if cfg!(loom) { 3 } else { 8 };

type Free = Box<dyn FnOnce() + Send>;

#[derive(Clone)]
pub(crate) struct Collector(unseen::Arc<Shared>);

struct Shared {
    slots: [Slot; THREADS],
    /// Whose slot is which.
    #[cfg(shuttle)]
    threads: unseen::Mutex<Vec<crate::sync::thread::ThreadId>>,
}

#[derive(Default)]
struct Slot {
    /// Odd: its thread is inside.
    visits: AtomicUsize,
    /// How many guards it holds.
    depth: unseen::AtomicUsize,
    /// What its thread has retired, and how much that is: who takes it has no order with who put it there from that.
    garbage: unseen::Mutex<Vec<Garbage>>,
    waiting: AtomicUsize,
}

struct Garbage {
    /// Who was inside: slot, and its number then.
    inside: Vec<(usize, usize)>,
    free: Free,
}

impl Collector {
    pub(crate) fn new() -> Self {
        Self(unseen::Arc::new(Shared {
            slots: Default::default(),
            #[cfg(shuttle)]
            threads: unseen::Mutex::default(),
        }))
    }

    pub(crate) fn register(&self) -> Local {
        let slot = self.0.slot_of_this_thread();
        assert!(slot < THREADS, "a model of more than {THREADS} threads");
        Local {
            shared: self.0.clone(),
            slot,
        }
    }
}

/// Shared access by one thread.
#[derive(Clone)]
pub struct Local {
    shared: unseen::Arc<Shared>,
    slot: usize,
}

impl Local {
    pub(crate) fn is_of(&self, collector: &Collector) -> bool {
        unseen::Arc::ptr_eq(&self.shared, &collector.0)
    }

    fn enter(&self) -> Guard {
        self.shared.slots[self.slot].enter();
        Guard(self.clone())
    }
}

/// One reader inside.
pub struct Guard(Local);

impl Slot {
    // `depth` is touched by one thread alone, hence Relaxed.

    fn enter(&self) {
        if self.depth.fetch_add(1, Ordering::Relaxed) == 0 {
            // Release: who sees this visit sees that the one before has ended. Acquire: whoever looked at who is inside and
            // did not see this visit has unlinked before what this thread looks at next.
            self.step(Ordering::AcqRel);
        }
    }

    /// True if this was the last guard.
    fn leave(&self) -> bool {
        let last = self.depth.fetch_sub(1, Ordering::Relaxed) == 1;
        if last {
            // Release: who sees that this thread has left is ordered after all of its looks.
            self.step(Ordering::Release);
        }
        last
    }

    fn step(&self, order: Ordering) {
        self.visits.fetch_add(1, order);
    }

    /// Relaxed, as in `take`: see `garbage`.
    fn put(&self, garbage: Garbage) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.garbage.lock().unwrap().push(garbage);
    }

    /// Who was inside when each of what waits was retired.
    fn look(&self) -> Vec<Vec<(usize, usize)>> {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return Vec::new();
        }
        self.garbage
            .lock()
            .unwrap()
            .iter()
            .map(|garbage| garbage.inside.clone())
            .collect()
    }

    fn take(&self) -> Vec<Garbage> {
        match self.waiting.swap(0, Ordering::Relaxed) {
            0 => Vec::new(),
            _ => core::mem::take(&mut *self.garbage.lock().unwrap()),
        }
    }
}

impl Shared {
    #[cfg(loom)]
    fn slot_of_this_thread(&self) -> usize {
        crate::sync::running()
    }

    #[cfg(shuttle)]
    fn slot_of_this_thread(&self) -> usize {
        let me = crate::sync::thread::current().id();
        let mut threads = self.threads.lock().unwrap();
        threads.iter().position(|&thread| thread == me).unwrap_or_else(|| {
            threads.push(me);
            threads.len() - 1
        })
    }

    /// Everybody inside, as of now, `me` among them.
    fn inside(&self, me: usize) -> Vec<(usize, usize)> {
        // Acquire: pairs with `leave`. Release: with the next to enter, who will see the unlink.
        let number = |(index, slot): (usize, &Slot)| match index == me {
            true => (index, slot.visits.load(Ordering::Relaxed)),
            false => (index, slot.visits.fetch_add(0, Ordering::AcqRel)),
        };
        let slots = self.slots.iter().take(crate::sync::expected_threads(THREADS));
        slots
            .enumerate()
            .map(number)
            .filter(|(_, number)| number % 2 == 1)
            .collect()
    }

    /// Whether all who were inside have left.
    fn have_left(&self, inside: &[(usize, usize)]) -> bool {
        // Acquire: pairs with `leave`. Who frees asks for all of them himself: he may have the garbage from somebody else, and
        // the list brings no order. For the same reason an older number is a stale one.
        let left = |&(slot, number): &(usize, usize)| self.slots[slot].visits.load(Ordering::Acquire) > number;
        inside.iter().all(left)
    }

    /// Frees what nobody can reach any more: of all that was retired by `by`, or by anybody.
    fn collect(&self, by: Option<usize>) {
        let slots = self.slots.iter().enumerate();
        for (_, slot) in slots.filter(|(slot, _)| by.is_none_or(|by| by == *slot)) {
            // Who cannot free anything writes nothing: peers would have to be tried before and after it.
            if !slot.look().iter().any(|inside| self.have_left(inside)) {
                continue;
            }
            // No lock is held over a step of the model.
            for garbage in slot.take() {
                if self.have_left(&garbage.inside) {
                    (garbage.free)();
                } else {
                    slot.put(garbage);
                }
            }
        }
    }
}

impl Guard {
    fn slot(&self) -> &Slot {
        &self.0.shared.slots[self.0.slot]
    }

    fn leave(&self) {
        if self.slot().leave() {
            self.0.shared.collect(Some(self.0.slot));
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Access for Local {
    const SHARED: bool = true;
    type Guard = Guard;
    type Cache<'t, M: TableMemory + 't> = Option<&'t FrameCache<'t, M>>;

    #[inline(always)]
    fn cache<'t, M: TableMemory>(cache: Self::Cache<'t, M>) -> Option<&'t FrameCache<'t, M>> {
        cache
    }

    fn pin(&self) -> Guard {
        mutated!(WalkUnpinned, return Collector::new().register().enter());
        self.enter()
    }

    fn repin(&self, guard: &mut Guard) {
        // A guard further out keeps the thread inside.
        if guard.slot().depth.load(Ordering::Relaxed) == 1 {
            self.outside(guard, || ());
        }
    }

    fn retire<M: TableMemory, T: Tlb>(&self, _: &Guard, core: &Arc<Core<M, T>>, unlinked: Unlinked) {
        mutated!(FreedAtOnce, return free_subtree(core, unlinked.pa, unlinked.level));
        core.retiring(unlinked.frames);
        each_portion(core, unlinked, &mut |portion| {
            let core = Arc::clone(core);
            let free: Box<dyn FnOnce() + Send + '_> = Box::new(move || free_portion(&core, &portion));
            // SAFETY: as in the hosted collector: the closure owns the core through its Arc; the models' memories and
            // sinks are all 'static, only the trait does not say so.
            let free: Free = unsafe { core::mem::transmute(free) };
            let inside = self.shared.inside(self.slot);
            self.shared.slots[self.slot].put(Garbage { inside, free });
        });
    }

    fn collect(&self) {
        self.shared.collect(None);
    }

    fn outside<R>(&self, guard: &mut Guard, work: impl FnOnce() -> R) -> R {
        guard.leave();
        let done = work();
        guard.slot().enter();
        done
    }

    fn is_inside(&self) -> bool {
        self.shared.slots[self.slot].depth.load(Ordering::Relaxed) > 0
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::sync::{explore, fence, thread};
    use std::collections::BTreeSet;

    /// Whether who entered found the link gone, and whether who unlinked saw him inside.
    type Outcome = (bool, bool);

    fn outcomes(name: &str, enter: fn(&Collector) -> bool, unlink: fn(&Collector) -> bool) -> BTreeSet<Outcome> {
        let found = unseen::Arc::new(unseen::Mutex::new(BTreeSet::new()));
        let told = found.clone();
        explore(name, move || {
            let collector = Collector::new();
            let peer = collector.clone();
            let walker = thread::spawn(move || enter(&peer));
            let seen = unlink(&collector);
            let outcome = (walker.join().unwrap(), seen);
            if !crate::sync::is_unseen() {
                told.lock().unwrap().insert(outcome);
            }
        });
        found.lock().unwrap().clone()
    }

    /// Stands for the entry: slot 2 is nobody's in a model of two threads.
    fn link(collector: &Collector) -> &AtomicUsize {
        &collector.0.slots[2].waiting
    }

    #[test]
    fn who_enters_sees_the_unlink_or_is_seen_as_with_fences() {
        let slots = outcomes(
            "collector: enter/unlink and look, by its slots",
            |collector| {
                core::mem::forget(collector.register().enter()); // and does not leave
                link(collector).load(Ordering::Relaxed) == 1
            },
            |collector| {
                link(collector).store(1, Ordering::Relaxed);
                collector.0.inside(0).iter().any(|&(slot, _)| slot == 1)
            },
        );
        let fences = outcomes(
            "collector: enter/unlink and look, by fences",
            |collector| {
                let visits = &collector.0.slots[1].visits;
                visits.store(1, Ordering::Release);
                fence(Ordering::SeqCst);
                link(collector).load(Ordering::Relaxed) == 1
            },
            |collector| {
                link(collector).store(1, Ordering::Relaxed);
                fence(Ordering::SeqCst);
                collector.0.slots[1].visits.load(Ordering::Acquire) == 1
            },
        );
        assert_eq!(slots, fences);
        assert_eq!(slots, BTreeSet::from([(true, true), (true, false), (false, true)]));
    }
}
