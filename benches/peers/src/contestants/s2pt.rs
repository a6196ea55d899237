//! s2pt: shared by handles, shared in a batch, and exclusive.
//!
//! FWB is on: no peer does cache maintenance, so s2pt is not asked for any either.

use s2pt::arch::{AccessKind, Attrs, Geometry, GeometryOptions, Ipa, Level, Pa, Prot};
use s2pt::table::{Access, Alone, Config, Exclusive, Handle, Local, MapOptions, Stage2, Stay, View};

use crate::hook::Hook;
use crate::layout::{BLOCK, PAGE};
use crate::pool::Pool;
use crate::table::{About, Can, Contestant, Leaf, Op, Peer, Shared, Table};

type Tree = Stage2<&'static Pool, Hook>;

const ATTRS: Attrs = Attrs::new(Prot::RW);
/// How many operations a batch does before it lets retired frames go.
const REPIN: u32 = 512;

fn tree(levels: u32, pool: &'static Pool) -> Tree {
    let options = GeometryOptions {
        // 40 bits: two tables side by side at level 1. 48 bits: one at level 0, as the peers with four levels.
        ipa_bits: if levels == 3 { 40 } else { 48 },
        ..GeometryOptions::default()
    };
    let geometry = Geometry::new(options).expect("a geometry of the architecture");
    assert_eq!(geometry.levels(), levels);
    let config = Config {
        fwb: true,
        ..Config::new(geometry)
    };
    Stage2::new(config, pool, Hook).expect("a root")
}

const fn about(levels: u32, three: (&'static str, &'static str), four: (&'static str, &'static str)) -> About {
    let (id, title) = if levels == 3 { three } else { four };
    About {
        id,
        title,
        version: env!("S2PT_VERSION"),
        own: true,
        levels,
        format: "Arm stage 2",
    }
}

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

fn by_leaves_of(level: Level) -> MapOptions {
    MapOptions {
        largest: Some(level),
        ..MapOptions::default()
    }
}

/// Rows for which staying in the table means nothing.
fn can_in_batch(op: Op) -> Can {
    match op {
        Op::MapPages | Op::MapBlocks | Op::WriteProtect | Op::Unmap | Op::UnmapFree => {
            Can::Not("one call: nothing to batch")
        }
        _ => Can::Directly,
    }
}

type Shares<'t> = Handle<'t, &'static Pool, Hook>;
type Owns<'t> = Exclusive<'t, &'static Pool, Hook>;

/// One table, a handle a thread.
pub struct ByHandle<const LEVELS: u32>(Tree);

pub struct HandleView<'s, 't>(&'s Shares<'t>);

impl Table for HandleView<'_, '_> {
    table_by!(self, self.0);
}

impl<const LEVELS: u32> Contestant for ByHandle<LEVELS> {
    type Session<'t> = Shares<'t>;
    type View<'s, 't>
        = HandleView<'s, 't>
    where
        't: 's;

    fn about() -> About {
        let three = ("s2pt_shared", "s2pt, shared");
        about(LEVELS, three, ("s2pt_shared_4l", "s2pt, shared, 4 levels"))
    }

    fn can(_: Op) -> Can {
        Can::Directly
    }

    fn new(pool: &'static Pool) -> Self {
        Self(tree(LEVELS, pool))
    }

    fn session(&mut self) -> Self::Session<'_> {
        self.0.handle()
    }

    fn view<'s, 't>(session: &'s mut Self::Session<'t>) -> HandleView<'s, 't> {
        HandleView(session)
    }

    fn settle(session: &mut Self::Session<'_>) {
        session.drain();
    }
}

impl<const LEVELS: u32> Shared for ByHandle<LEVELS> {
    fn share(&self) -> Self::Session<'_> {
        self.0.handle()
    }
}

/// The same, staying in the table between calls.
pub struct InBatch<const LEVELS: u32>(Tree);

/// A stay that lets retired frames go every now and then.
pub struct Staying<'s, 't, A: Access> {
    stay: Stay<'s, 't, &'static Pool, Hook, A>,
    left: u32,
}

impl<'s, 't, A: Access> Staying<'s, 't, A> {
    fn new(view: &'s View<'t, &'static Pool, Hook, A>) -> Self {
        Self {
            stay: view.stay(),
            left: REPIN,
        }
    }

    #[inline(always)]
    fn next(&mut self) -> &Stay<'s, 't, &'static Pool, Hook, A> {
        self.left -= 1;
        if self.left == 0 {
            self.left = REPIN;
            self.stay.repin();
        }
        &self.stay
    }
}

impl<A: Access> Table for Staying<'_, '_, A> {
    table_by!(self, self.next());
}

impl<const LEVELS: u32> Contestant for InBatch<LEVELS> {
    type Session<'t> = Shares<'t>;
    type View<'s, 't>
        = Staying<'s, 't, Local>
    where
        't: 's;

    fn about() -> About {
        let three = ("s2pt_batch", "s2pt, shared, in a batch");
        about(LEVELS, three, ("s2pt_batch_4l", "s2pt, shared, in a batch, 4 levels"))
    }

    fn can(op: Op) -> Can {
        can_in_batch(op)
    }

    fn new(pool: &'static Pool) -> Self {
        Self(tree(LEVELS, pool))
    }

    fn session(&mut self) -> Self::Session<'_> {
        self.0.handle()
    }

    fn view<'s, 't>(session: &'s mut Self::Session<'t>) -> Staying<'s, 't, Local> {
        Staying::new(session)
    }

    fn settle(session: &mut Self::Session<'_>) {
        session.drain();
    }
}

impl<const LEVELS: u32> Shared for InBatch<LEVELS> {
    fn share(&self) -> Self::Session<'_> {
        self.0.handle()
    }
}

/// One table, one user.
pub struct Exclusively<const LEVELS: u32>(Tree);

impl<const LEVELS: u32> Table for Exclusively<LEVELS> {
    table_by!(self, self.0.exclusive());
}

impl<const LEVELS: u32> Peer for Exclusively<LEVELS> {
    const ABOUT: About = about(
        LEVELS,
        ("s2pt_exclusive", "s2pt, exclusive"),
        ("s2pt_exclusive_4l", "s2pt, exclusive, 4 levels"),
    );

    fn new(pool: &'static Pool) -> Self {
        Self(tree(LEVELS, pool))
    }

    fn can(_: Op) -> Can {
        Can::Directly
    }

    type Reader = Local;

    fn reader(&self) -> Local {
        self.0.register()
    }

    #[inline(always)]
    fn read(&self, reader: &Local, ipa: u64) -> Option<u64> {
        let view = self.0.handle_of(reader).expect("a registration with this table");
        view.translate(Ipa::new(ipa), AccessKind::Read)
            .ok()
            .map(|hit| hit.pa.get())
    }
}

/// One user who stays in the table between calls.
pub struct ExclusivelyInBatch<const LEVELS: u32>(Tree);

impl<const LEVELS: u32> Contestant for ExclusivelyInBatch<LEVELS> {
    type Session<'t> = Owns<'t>;
    type View<'s, 't>
        = Staying<'s, 't, Alone>
    where
        't: 's;

    fn about() -> About {
        let three = ("s2pt_exclusive_batch", "s2pt, exclusive, in a batch");
        about(
            LEVELS,
            three,
            ("s2pt_exclusive_batch_4l", "s2pt, exclusive, in a batch, 4 levels"),
        )
    }

    fn can(op: Op) -> Can {
        can_in_batch(op)
    }

    fn new(pool: &'static Pool) -> Self {
        Self(tree(LEVELS, pool))
    }

    fn session(&mut self) -> Self::Session<'_> {
        self.0.exclusive()
    }

    fn view<'s, 't>(session: &'s mut Self::Session<'t>) -> Staying<'s, 't, Alone> {
        Staying::new(session)
    }
}
