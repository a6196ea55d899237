//! A peer as it comes: one user, no lock.

use crate::pool::Pool;
use crate::table::{About, Can, Contestant, Leaf, Op, Peer, Table};

pub struct Alone<P>(P);

impl<P: Peer> Contestant for Alone<P> {
    type Session<'t>
        = &'t mut P
    where
        P: 't;
    type View<'s, 't>
        = &'s mut P
    where
        P: 't,
        't: 's;

    fn about() -> About {
        P::ABOUT
    }

    fn can(op: Op) -> Can {
        P::can(op)
    }

    fn new(pool: &'static Pool) -> Self {
        Self(P::new(pool))
    }

    fn session(&mut self) -> &mut P {
        &mut self.0
    }

    fn view<'s, 't>(session: &'s mut &'t mut P) -> &'s mut P
    where
        P: 't,
    {
        session
    }
}

impl<P: Table> Table for &mut P {
    #[inline(always)]
    fn map_pages(&mut self, ipa: u64, size: u64, pa: u64) {
        (**self).map_pages(ipa, size, pa);
    }
    #[inline(always)]
    fn map_blocks(&mut self, ipa: u64, size: u64, pa: u64) {
        (**self).map_blocks(ipa, size, pa);
    }
    #[inline(always)]
    fn fault(&mut self, ipa: u64, pa: u64) {
        (**self).fault(ipa, pa);
    }
    #[inline(always)]
    fn translate(&mut self, ipa: u64) -> Option<u64> {
        (**self).translate(ipa)
    }
    fn leaf(&mut self, ipa: u64) -> Option<Leaf> {
        (**self).leaf(ipa)
    }
    #[inline(always)]
    fn write_protect(&mut self, ipa: u64, size: u64) {
        (**self).write_protect(ipa, size);
    }
    #[inline(always)]
    fn relax(&mut self, ipa: u64) {
        (**self).relax(ipa);
    }
    #[inline(always)]
    fn unmap(&mut self, ipa: u64, size: u64) {
        (**self).unmap(ipa, size);
    }
    #[inline(always)]
    fn unmap_free(&mut self, ipa: u64, size: u64) {
        (**self).unmap_free(ipa, size);
    }
    #[inline(always)]
    fn unmap_page(&mut self, ipa: u64) {
        (**self).unmap_page(ipa);
    }
    #[inline(always)]
    fn split(&mut self, ipa: u64) {
        (**self).split(ipa);
    }
    #[inline(always)]
    fn collapse(&mut self, ipa: u64) {
        (**self).collapse(ipa);
    }
}
