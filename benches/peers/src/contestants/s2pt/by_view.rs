//! The work of the rows by the calls of a view.

use s2pt::arch::Level;
use s2pt::table::MapOptions;

/// [`Table`] by the calls of a view, or of a stay, which has the view's and some that are quicker: `$view` says how to get
/// at it.
macro_rules! table_by {
    ($self:ident, $view:expr) => {
        #[inline(always)]
        fn map_pages(&mut $self, ipa: u64, size: u64, pa: u64) {
            let options = by_leaves_of(Level::L3);
            $view.map(Ipa::new(ipa), size, Pa::new(pa), &ATTRS, options).expect("an empty range");
        }
        #[inline(always)]
        fn map_blocks(&mut $self, ipa: u64, size: u64, pa: u64) {
            let options = by_leaves_of(Level::L2);
            $view.map(Ipa::new(ipa), size, Pa::new(pa), &ATTRS, options).expect("an empty range");
        }
        #[inline(always)]
        fn fault(&mut $self, ipa: u64, pa: u64) {
            $view.map(Ipa::new(ipa), PAGE, Pa::new(pa), &ATTRS, MapOptions::FAULT).expect("an empty page");
        }
        #[inline(always)]
        fn translate(&mut $self, ipa: u64) -> Option<u64> {
            $view.translate(Ipa::new(ipa), AccessKind::Read).ok().map(|hit| hit.pa.get())
        }
        fn leaf(&mut $self, ipa: u64) -> Option<Leaf> {
            let (ipa, view) = (Ipa::new(ipa), $view);
            let hit = view.translate(ipa, AccessKind::Read).ok()?;
            Some(Leaf {
                pa: hit.pa.get(),
                size: view.config().geometry.size(hit.level),
                writable: view.translate(ipa, AccessKind::Write).is_ok(),
            })
        }
        #[inline(always)]
        fn write_protect(&mut $self, ipa: u64, size: u64) {
            $view.write_protect(Ipa::new(ipa), size).expect("a mapped range");
        }
        #[inline(always)]
        fn relax(&mut $self, ipa: u64) {
            $view.relax(Ipa::new(ipa), PAGE, Prot::W).expect("a mapped page");
        }
        #[inline(always)]
        fn unmap(&mut $self, ipa: u64, size: u64) {
            $view.unmap(Ipa::new(ipa), size).expect("a mapped range");
        }
        // The same call: tables that are empty go. `settle` waits until they are back.
        #[inline(always)]
        fn unmap_free(&mut $self, ipa: u64, size: u64) {
            $view.unmap(Ipa::new(ipa), size).expect("a mapped range");
        }
        #[inline(always)]
        fn unmap_page(&mut $self, ipa: u64) {
            $view.unmap(Ipa::new(ipa), PAGE).expect("a mapped page");
        }
        #[inline(always)]
        fn split(&mut $self, ipa: u64) {
            $view.split(Ipa::new(ipa), BLOCK, Level::L3).expect("a block");
        }
        #[inline(always)]
        fn collapse(&mut $self, ipa: u64) {
            $view.collapse(Ipa::new(ipa), BLOCK).expect("a range");
        }
    };
}

pub fn by_leaves_of(level: Level) -> MapOptions {
    MapOptions {
        largest: Some(level),
        ..MapOptions::default()
    }
}

pub(super) use table_by;
