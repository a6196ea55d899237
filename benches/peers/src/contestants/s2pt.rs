//! s2pt: shared by handles or exclusive, call by call or in a batch.
//!
//! FWB is on: no peer does cache maintenance, so s2pt is not asked for any either.

mod by_view;

use std::marker::PhantomData;

use s2pt::arch::{AccessKind, Attrs, Geometry, GeometryOptions, Ipa, Level, Pa, Prot};
use s2pt::table::{Access, Alone, Config, Local, MapOptions, Stage2, Stay, View};

use crate::hook::Hook;
use crate::layout::{BLOCK, PAGE};
use crate::pool::Pool;
use crate::table::{About, Can, Contestant, Leaf, Op, Peer, Shared, Table};
use by_view::{by_leaves_of, table_by};

pub type Tree = Stage2<&'static Pool, Hook>;

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

type Way<'t, A> = View<'t, &'static Pool, Hook, A>;

/// How a table is got at.
pub trait Opens: Sync {
    type Access: Access;
    /// Id and title, three levels and four.
    const CALLS: [(&'static str, &'static str); 2];
    /// The same in a batch.
    const BATCH: [(&'static str, &'static str); 2];

    fn open(tree: &mut Tree) -> Way<'_, Self::Access>;
}

/// By a handle a thread.
pub struct Handles;

impl Opens for Handles {
    type Access = Local;
    const CALLS: [(&'static str, &'static str); 2] = [
        ("s2pt_shared", "s2pt, shared"),
        ("s2pt_shared_4l", "s2pt, shared, 4 levels"),
    ];
    const BATCH: [(&'static str, &'static str); 2] = [
        ("s2pt_batch", "s2pt, shared, in a batch"),
        ("s2pt_batch_4l", "s2pt, shared, in a batch, 4 levels"),
    ];

    fn open(tree: &mut Tree) -> Way<'_, Local> {
        tree.handle()
    }
}

/// By the only user.
pub struct Owner;

impl Opens for Owner {
    type Access = Alone;
    const CALLS: [(&'static str, &'static str); 2] = [
        ("s2pt_exclusive", "s2pt, exclusive"),
        ("s2pt_exclusive_4l", "s2pt, exclusive, 4 levels"),
    ];
    const BATCH: [(&'static str, &'static str); 2] = [
        ("s2pt_exclusive_batch", "s2pt, exclusive, in a batch"),
        ("s2pt_exclusive_batch_4l", "s2pt, exclusive, in a batch, 4 levels"),
    ];

    fn open(tree: &mut Tree) -> Way<'_, Alone> {
        tree.exclusive()
    }
}

/// A table whose user makes call after call.
pub struct Calls<O, const LEVELS: u32>(Tree, PhantomData<O>);

/// A way in, as it is.
pub struct Direct<'s, 't, A: Access>(&'s Way<'t, A>);

impl<A: Access> Table for Direct<'_, '_, A> {
    table_by!(self, self.0);
}

impl<O: Opens, const LEVELS: u32> Contestant for Calls<O, LEVELS> {
    type Session<'t>
        = Way<'t, O::Access>
    where
        Self: 't;
    type View<'s, 't>
        = Direct<'s, 't, O::Access>
    where
        Self: 't,
        't: 's;

    fn about() -> About {
        about(LEVELS, O::CALLS[0], O::CALLS[1])
    }

    fn can(_: Op) -> Can {
        Can::Directly
    }

    fn new(pool: &'static Pool) -> Self {
        Self(tree(LEVELS, pool), PhantomData)
    }

    fn session(&mut self) -> Self::Session<'_> {
        O::open(&mut self.0)
    }

    fn view<'s, 't>(session: &'s mut Self::Session<'t>) -> Direct<'s, 't, O::Access>
    where
        Self: 't,
    {
        Direct(session)
    }

    fn settle<'t>(session: &mut Self::Session<'t>)
    where
        Self: 't,
    {
        session.drain();
    }
}

impl<const LEVELS: u32> Shared for Calls<Handles, LEVELS> {
    fn share(&self) -> Self::Session<'_> {
        self.0.handle()
    }
}

/// A table whose user stays in it between calls.
pub struct Batch<O, const LEVELS: u32>(Tree, PhantomData<O>);

/// A stay that lets retired frames go every now and then.
pub struct Staying<'s, 't, A: Access> {
    stay: Stay<'s, 't, &'static Pool, Hook, A>,
    left: u32,
}

impl<'s, 't, A: Access> Staying<'s, 't, A> {
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

impl<O: Opens, const LEVELS: u32> Contestant for Batch<O, LEVELS> {
    type Session<'t>
        = Way<'t, O::Access>
    where
        Self: 't;
    type View<'s, 't>
        = Staying<'s, 't, O::Access>
    where
        Self: 't,
        't: 's;

    fn about() -> About {
        about(LEVELS, O::BATCH[0], O::BATCH[1])
    }

    fn can(op: Op) -> Can {
        match op {
            Op::MapPages | Op::MapBlocks | Op::WriteProtect | Op::Unmap | Op::UnmapFree => {
                Can::Not("one call: nothing to batch")
            }
            _ => Can::Directly,
        }
    }

    fn new(pool: &'static Pool) -> Self {
        Self(tree(LEVELS, pool), PhantomData)
    }

    fn session(&mut self) -> Self::Session<'_> {
        O::open(&mut self.0)
    }

    fn view<'s, 't>(session: &'s mut Self::Session<'t>) -> Staying<'s, 't, O::Access>
    where
        Self: 't,
    {
        Staying {
            stay: session.stay(),
            left: REPIN,
        }
    }

    fn settle<'t>(session: &mut Self::Session<'t>)
    where
        Self: 't,
    {
        session.drain();
    }
}

impl<const LEVELS: u32> Shared for Batch<Handles, LEVELS> {
    fn share(&self) -> Self::Session<'_> {
        self.0.handle()
    }
}

/// A table for a lock around it: who holds the lock for writing is the only user for that long.
pub struct ForLock(Tree);

impl Table for ForLock {
    table_by!(self, self.0.exclusive());
}

impl Peer for ForLock {
    const ABOUT: About = about(3, Owner::CALLS[0], Owner::CALLS[1]);

    fn new(pool: &'static Pool) -> Self {
        Self(tree(3, pool))
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
        let found = view.translate(Ipa::new(ipa), AccessKind::Read);
        found.ok().map(|hit| hit.pa.get())
    }
}
