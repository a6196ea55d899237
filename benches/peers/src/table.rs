//! What a contestant must be able to do, and how rows get at it.
//!
//! [`Table`] is the work. A [`Contestant`] makes tables and hands out ways into them in two steps, because s2pt's batch
//! borrows from the handle that it stays with: a session, and a view of the session. A [`Peer`] is a library's table as
//! it comes, for one user; `Alone` and `Locked` make contestants of it.

use crate::pool::Pool;

/// One leaf, as the checks see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// What the address that was asked for is mapped to.
    pub pa: u64,
    /// Bytes that the leaf maps.
    pub size: u64,
    pub writable: bool,
}

/// The operations of the rows. Addresses and sizes are bytes; each panics where it fails.
pub trait Table {
    /// Maps an empty range by pages, readable and writable.
    fn map_pages(&mut self, ipa: u64, size: u64, pa: u64);
    /// Maps an empty range by blocks of 2 MiB, readable and writable.
    fn map_blocks(&mut self, ipa: u64, size: u64, pa: u64);
    /// Maps one page, readable and writable, as the handler of a page fault does.
    fn fault(&mut self, ipa: u64, pa: u64);
    /// Where `ipa` is mapped to.
    fn translate(&mut self, ipa: u64) -> Option<u64>;
    /// The leaf that maps `ipa`: for the checks, not for rows.
    fn leaf(&mut self, ipa: u64) -> Option<Leaf>;
    /// Takes the right to write from a mapped range.
    fn write_protect(&mut self, ipa: u64, size: u64);
    /// Gives one mapped page the right to write.
    fn relax(&mut self, ipa: u64);
    /// Unmaps a range that is mapped by pages; its tables may stay.
    fn unmap(&mut self, ipa: u64, size: u64);
    /// The same, and its tables go back to the pool ([`Contestant::settle`] waits for them).
    fn unmap_free(&mut self, ipa: u64, size: u64);
    /// Unmaps one page.
    fn unmap_page(&mut self, ipa: u64);
    /// Turns a block of 2 MiB into pages.
    fn split(&mut self, ipa: u64);
    /// Turns 512 pages that can be one into a block; pages that cannot must stay.
    fn collapse(&mut self, ipa: u64);
}

/// A row of one thread: one operation of [`Table`], done many times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    MapPages,
    MapBlocks,
    Fault,
    FaultRandom,
    Translate,
    WriteProtect,
    Relax,
    Unmap,
    UnmapFree,
    UnmapPage,
    Split,
    Collapse,
}

/// How a contestant does an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Can {
    /// The library has it.
    Directly,
    /// Its calls add up to it; which ones.
    By(&'static str),
    /// It has no such thing; why.
    Not(&'static str),
}

/// What the report says about a contestant.
#[derive(Clone, Copy, Debug)]
pub struct About {
    pub id: &'static str,
    pub title: &'static str,
    pub version: &'static str,
    pub own: bool,
    pub levels: u32,
    pub format: &'static str,
}

/// A table for one user.
pub trait Peer: Table + Send + Sync + Sized {
    const ABOUT: About;

    fn new(pool: &'static Pool) -> Self;

    fn can(op: Op) -> Can;

    /// What a thread keeps to read the table beside other readers.
    type Reader;

    fn reader(&self) -> Self::Reader;

    /// [`Table::translate`] beside other readers.
    fn read(&self, reader: &Self::Reader, ipa: u64) -> Option<u64>;
}

/// Anything that rows can be run with.
pub trait Contestant: Sized {
    type Session<'t>
    where
        Self: 't;
    type View<'s, 't>: Table
    where
        Self: 't,
        't: 's;

    fn about() -> About;

    fn can(op: Op) -> Can;

    fn new(pool: &'static Pool) -> Self;

    fn session(&mut self) -> Self::Session<'_>;

    fn view<'s, 't>(session: &'s mut Self::Session<'t>) -> Self::View<'s, 't>
    where
        Self: 't;

    /// Waits until frames of tables that went are back in the pool.
    fn settle<'t>(_: &mut Self::Session<'t>)
    where
        Self: 't,
    {
    }
}

/// A contestant that several threads can use at once.
pub trait Shared: Contestant + Sync {
    fn share(&self) -> Self::Session<'_>;
}
