//! A peer behind the lock that its user would need, taken once a call: for reading to translate, for writing otherwise.
//!
//! Both reader-writer locks that a user would take from the shelf, so that no peer is judged by the slower one.

use std::marker::PhantomData;

use crate::pool::Pool;
use crate::table::{About, Can, Contestant, Leaf, Op, Peer, Shared, Table};

/// A reader-writer lock.
pub trait Lock<T>: Sync {
    const NAME: &'static str;

    fn new(value: T) -> Self;
    fn read<R>(&self, body: impl FnOnce(&T) -> R) -> R;
    fn write<R>(&self, body: impl FnOnce(&mut T) -> R) -> R;
}

impl<T: Send + Sync> Lock<T> for parking_lot::RwLock<T> {
    const NAME: &'static str = "parking_lot";

    fn new(value: T) -> Self {
        Self::new(value)
    }
    #[inline(always)]
    fn read<R>(&self, body: impl FnOnce(&T) -> R) -> R {
        body(&self.read())
    }
    #[inline(always)]
    fn write<R>(&self, body: impl FnOnce(&mut T) -> R) -> R {
        body(&mut self.write())
    }
}

impl<T: Send + Sync> Lock<T> for std::sync::RwLock<T> {
    const NAME: &'static str = "std";

    fn new(value: T) -> Self {
        Self::new(value)
    }
    #[inline(always)]
    fn read<R>(&self, body: impl FnOnce(&T) -> R) -> R {
        body(&self.read().expect("no writer panicked"))
    }
    #[inline(always)]
    fn write<R>(&self, body: impl FnOnce(&mut T) -> R) -> R {
        body(&mut self.write().expect("no writer panicked"))
    }
}

pub struct Locked<P, L> {
    lock: L,
    peer: PhantomData<P>,
}

/// One thread's way to a locked table.
pub struct Way<'t, P: Peer, L> {
    lock: &'t L,
    reader: P::Reader,
}

impl<P: Peer, L: Lock<P>> Contestant for Locked<P, L> {
    type Session<'t>
        = Way<'t, P, L>
    where
        Self: 't;
    type View<'s, 't>
        = &'s mut Way<'t, P, L>
    where
        Self: 't,
        't: 's;

    fn about() -> About {
        P::ABOUT
    }

    fn can(op: Op) -> Can {
        P::can(op)
    }

    fn new(pool: &'static Pool) -> Self {
        Self {
            lock: L::new(P::new(pool)),
            peer: PhantomData,
        }
    }

    fn session(&mut self) -> Way<'_, P, L> {
        Way {
            lock: &self.lock,
            reader: self.lock.read(P::reader),
        }
    }

    fn view<'s, 't>(session: &'s mut Way<'t, P, L>) -> &'s mut Way<'t, P, L>
    where
        Self: 't,
    {
        session
    }
}

impl<P: Peer, L: Lock<P>> Shared for Locked<P, L> {
    fn share(&self) -> Way<'_, P, L> {
        Way {
            lock: &self.lock,
            reader: self.lock.read(P::reader),
        }
    }
}

impl<P: Peer, L: Lock<P>> Table for Way<'_, P, L> {
    #[inline(always)]
    fn map_pages(&mut self, ipa: u64, size: u64, pa: u64) {
        self.lock.write(|table| table.map_pages(ipa, size, pa));
    }
    #[inline(always)]
    fn map_blocks(&mut self, ipa: u64, size: u64, pa: u64) {
        self.lock.write(|table| table.map_blocks(ipa, size, pa));
    }
    #[inline(always)]
    fn fault(&mut self, ipa: u64, pa: u64) {
        self.lock.write(|table| table.fault(ipa, pa));
    }
    #[inline(always)]
    fn translate(&mut self, ipa: u64) -> Option<u64> {
        self.lock.read(|table| table.read(&self.reader, ipa))
    }
    fn leaf(&mut self, ipa: u64) -> Option<Leaf> {
        self.lock.write(|table| table.leaf(ipa))
    }
    #[inline(always)]
    fn write_protect(&mut self, ipa: u64, size: u64) {
        self.lock.write(|table| table.write_protect(ipa, size));
    }
    #[inline(always)]
    fn relax(&mut self, ipa: u64) {
        self.lock.write(|table| table.relax(ipa));
    }
    #[inline(always)]
    fn unmap(&mut self, ipa: u64, size: u64) {
        self.lock.write(|table| table.unmap(ipa, size));
    }
    #[inline(always)]
    fn unmap_free(&mut self, ipa: u64, size: u64) {
        self.lock.write(|table| table.unmap_free(ipa, size));
    }
    #[inline(always)]
    fn unmap_page(&mut self, ipa: u64) {
        self.lock.write(|table| table.unmap_page(ipa));
    }
    #[inline(always)]
    fn split(&mut self, ipa: u64) {
        self.lock.write(|table| table.split(ipa));
    }
    #[inline(always)]
    fn collapse(&mut self, ipa: u64) {
        self.lock.write(|table| table.collapse(ipa));
    }
}
