//! Histories: what several threads did to a few pages of one table, each operation with the moments of its call and return.
//!
//! Whether there is an order of the operations that explains all results is decided elsewhere (`s2pt.testing.linearizability`).
//! Here they are made: random operations from a seed, by real threads, on few pages, so that they meet. The moments are
//! numbers of one shared counter. A thread that is not disturbed does hundreds of operations in one slice of processor
//! time, and none overlaps another's; so threads yield between a moment and the call that belongs to it, and a table with a
//! sink that stalls lets them meet inside, while entries are LOCKED.

use crate::arch::{AccessKind, Attrs, FaultKind, Ipa, Level, Pa, Prot};
use crate::memory::TableMemory;
use crate::sync::{AtomicU64, Barrier, Ordering, thread};
use crate::table::{Error, Existing, Handle, MapOptions, Stage2, Tlb};
use crate::vm::workload::Random;

/// What is to be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The first page, aligned to a block of level 2.
    pub ipa: Ipa,
    /// Pages that are worked on, and no more than a table has entries.
    pub pages: u64,
    /// Threads.
    pub threads: u64,
    /// Operations of each thread.
    pub operations: u64,
    /// Determines what each thread does, not when.
    pub seed: u64,
    /// The pages lie in a block that is mapped whole, cut and merged; otherwise in a table that holds nothing else.
    pub blocks: bool,
}

/// Output address minus IPA where mappings lie on the line on which blocks form.
const LINE: u64 = 1 << 33;

/// What an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum What {
    /// [`View::map`](crate::table::View::map); `option` is 0 to replace, 1 to keep, 2 for an error.
    Map,
    /// Unmap.
    Unmap,
    /// Protect.
    Protect,
    /// Write-protect.
    WriteProtect,
    /// Relax.
    Relax,
    /// Set the access flag.
    MarkYoung,
    /// Look at the access flag.
    TestYoung,
    /// Look at it and clear it; `option` is 1 to flush.
    TestAndClearYoung,
    /// Split to pages.
    Split,
    /// Collapse.
    Collapse,
    /// Translate; `option` is 0 to read, 1 to write.
    Translate,
    /// Look until nobody is between break and make there.
    Read,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Status {
    /// It returned `first` and `second`.
    Returned,
    /// [`Error::Again`].
    Again,
    /// [`Error::Conflict`] at the address `first`.
    Conflict,
    /// [`Error::NotMapped`].
    NotMapped,
    /// A translation fault.
    TranslationFault,
    /// A permission fault.
    PermissionFault,
    /// An access flag fault.
    AccessFlagFault,
}

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who.
    pub thread: u64,
    /// The moment before the call, and the one after.
    pub moments: (u64, u64),
    /// What was called.
    pub what: What,
    /// Its range.
    pub ipa: Ipa,
    /// In bytes.
    pub size: u64,
    /// Where it maps to.
    pub pa: Pa,
    /// The permissions that it gives.
    pub prot: Prot,
    /// Software bits that it gives.
    pub software: u8,
    /// See [`What`].
    pub option: u64,
    /// How it ended.
    pub status: Status,
    /// Bytes mapped, removed or changed; a number or a truth; the output address.
    pub first: u64,
    /// Bytes kept; leaves changed; permissions, access flag (bit 8) and software bits (from bit 16) of a leaf.
    pub second: u64,
}

impl Record {
    /// Fields of [`row`](Self::row).
    pub const FIELDS: usize = 13;

    /// The record as numbers, in the order of its fields.
    pub fn row(&self) -> [u64; Self::FIELDS] {
        [
            self.thread,
            self.moments.0,
            self.moments.1,
            self.what as u64,
            self.ipa.get(),
            self.size,
            self.pa.get(),
            u64::from(self.prot.bits()),
            u64::from(self.software),
            self.option,
            self.status as u64,
            self.first,
            self.second,
        ]
    }
}

/// Runs the plan on a table and returns what happened, thread by thread; thread 0 prepares the ground alone. What the table
/// maps in the block of the pages is removed first.
///
/// # Errors
/// What no operation should be refused for: the range lies beyond the table, or memory ran out.
///
/// # Panics
/// If the plan has no thread or no page.
pub fn record<M: TableMemory, T: Tlb>(table: &Stage2<M, T>, plan: Plan) -> Result<Vec<Record>, Error> {
    assert!(plan.threads > 0 && plan.pages > 0, "nobody would do anything");
    let geometry = &table.config().geometry;
    let (page, block) = (geometry.granule().size(), geometry.size(Level::L2));
    let moment = AtomicU64::new(0);
    let ground = table.handle();
    ground.unmap(plan.ipa, block)?;
    let mut first = Recorder::new(&ground, &moment, plan, 0);
    if plan.blocks {
        first.even_out(block)?;
    }
    let mut history = first.records;
    drop(ground);
    let barrier = Barrier::new(plan.threads as usize);
    let work = |me: u64| {
        let view = table.handle();
        let mut recorder = Recorder::new(&view, &moment, plan, me + 1);
        barrier.wait();
        for _ in 0..plan.operations {
            recorder.step(page, block)?;
        }
        Ok(recorder.records)
    };
    let parts: Vec<Result<Vec<Record>, Error>> = thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..plan.threads).map(|me| scope.spawn(move || work(me))).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .map(|part| part.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    for part in parts {
        history.extend(part?);
    }
    Ok(history)
}

/// How a call ended, in numbers.
type Ended = (Status, u64, u64);

/// One thread at work.
struct Recorder<'v, 't, M: TableMemory, T: Tlb> {
    view: &'v Handle<'t, M, T>,
    moment: &'v AtomicU64,
    plan: Plan,
    me: u64,
    random: Random,
    records: Vec<Record>,
}

impl<'v, 't, M: TableMemory, T: Tlb> Recorder<'v, 't, M, T> {
    fn new(view: &'v Handle<'t, M, T>, moment: &'v AtomicU64, plan: Plan, me: u64) -> Self {
        Self {
            view,
            moment,
            plan,
            me,
            random: Random::new(plan.seed.wrapping_mul(0x1_0001) ^ me << 48),
            records: Vec::new(),
        }
    }

    fn pick<V: Copy>(&mut self, all: &[V]) -> V {
        all[self.random.below(all.len() as u64) as usize]
    }

    /// A moment, and a chance for others to be quicker.
    fn now(&mut self, yields_before: bool) -> u64 {
        let yields = self.random.below(4) == 0;
        if yields && yields_before {
            thread::yield_now();
        }
        // SeqCst: an operation that returned before another was called has the smaller number, whoever compares.
        let now = self.moment.fetch_add(1, Ordering::SeqCst);
        if yields && !yields_before {
            thread::yield_now();
        }
        now
    }

    fn call(
        &mut self,
        mut record: Record,
        call: impl FnOnce(&Handle<'t, M, T>) -> Result<Ended, Error>,
    ) -> Result<(), Error> {
        let invoked = self.now(false);
        let ended = match call(self.view) {
            Ok(ended) => ended,
            Err(Error::Again { .. }) => (Status::Again, 0, 0),
            Err(Error::Conflict { ipa, .. }) => (Status::Conflict, ipa.get(), 0),
            Err(Error::NotMapped { .. }) => (Status::NotMapped, 0, 0),
            Err(error) => return Err(error),
        };
        record.moments = (invoked, self.now(true));
        (record.status, record.first, record.second) = ended;
        self.records.push(record);
        Ok(())
    }

    fn blank(&self, what: What, ipa: u64, size: u64) -> Record {
        Record {
            thread: self.me,
            moments: (0, 0),
            what,
            ipa: Ipa::new(ipa),
            size,
            pa: Pa::new(0),
            prot: Prot::NONE,
            software: 0,
            option: 0,
            status: Status::Returned,
            first: 0,
            second: 0,
        }
    }

    /// The whole block as one leaf.
    fn even_out(&mut self, block: u64) -> Result<(), Error> {
        let mut record = self.blank(What::Map, self.plan.ipa.get(), block);
        (record.pa, record.prot) = (Pa::new(record.ipa.get() + LINE), Prot::RW);
        self.map(record)
    }

    fn map(&mut self, record: Record) -> Result<(), Error> {
        let existing = [Existing::Replace, Existing::Keep, Existing::Error][record.option as usize];
        let attrs = Attrs {
            software: record.software,
            ..Attrs::new(record.prot)
        };
        self.call(record, |view| {
            let options = MapOptions {
                existing,
                ..MapOptions::default()
            };
            let made = view.map(record.ipa, record.size, record.pa, &attrs, options)?;
            Ok((Status::Returned, made.bytes, made.kept))
        })
    }

    /// One random operation.
    fn step(&mut self, page: u64, block: u64) -> Result<(), Error> {
        let Plan { ipa, pages, blocks, .. } = self.plan;
        let ipa = ipa.get();
        if blocks && self.random.below(12) == 0 {
            return self.on_block(block);
        }
        let count = self.pick(&[1, 1, 1, 2, 3, pages]).min(pages);
        let first = self.random.below(pages - count + 1);
        let mut record = self.blank(What::Map, ipa + first * page, count * page);
        record.prot = self.pick(&[Prot::RW, Prot::R]);
        match self.random.below(24) {
            0..=5 => {
                // Few different leaves, so that the same one comes again, and in blocks mostly the one that makes a block.
                let aside = if self.random.below(if blocks { 3 } else { 2 }) == 0 {
                    block
                } else {
                    0
                };
                record.pa = Pa::new(record.ipa.get() + LINE + aside);
                record.software = if blocks { 0 } else { self.random.below(2) as u8 };
                record.option = self.random.below(3);
                self.map(record)
            }
            6..=8 => self.change(record, What::Unmap),
            9 => self.change(record, What::Protect),
            10 | 11 => self.change(record, What::WriteProtect),
            12 => self.change(record, What::Relax),
            13 => self.change(record, What::MarkYoung),
            14 => self.change(record, What::TestYoung),
            15 | 16 => {
                record.option = self.random.below(2);
                self.change(record, What::TestAndClearYoung)
            }
            17 => {
                (record.size, record.option) = (page, self.random.below(2));
                self.translate(record)
            }
            18 => self.on_block(block),
            _ => {
                record.size = page;
                self.read(record)
            }
        }
    }

    /// What takes the block as a whole: it changes no translation, or in a block that of all pages.
    fn on_block(&mut self, block: u64) -> Result<(), Error> {
        let record = self.blank(What::Split, self.plan.ipa.get(), block);
        match self.random.below(if self.plan.blocks { 6 } else { 2 }) {
            0 => self.change(record, What::Split),
            1 | 2 => self.change(record, What::Collapse),
            3 => self.change(record, What::WriteProtect),
            _ => self.even_out(block),
        }
    }

    fn change(&mut self, mut record: Record, what: What) -> Result<(), Error> {
        record.what = what;
        let (at, size, prot, option) = (record.ipa, record.size, record.prot, record.option);
        self.call(record, |view| {
            let changed = match what {
                What::Protect => view.protect(at, size, prot)?,
                What::WriteProtect => view.write_protect(at, size)?,
                What::Relax => view.relax(at, size, prot)?,
                What::MarkYoung => view.mark_young(at, size)?,
                one => {
                    let answer = match one {
                        What::Unmap => view.unmap(at, size)?,
                        What::TestYoung => u64::from(view.test_young(at, size)?),
                        What::TestAndClearYoung => u64::from(view.test_and_clear_young(at, size, option == 1)?),
                        What::Split => view.split(at, size, Level::L3)?,
                        _ => view.collapse(at, size)?,
                    };
                    return Ok((Status::Returned, answer, 0));
                }
            };
            Ok((Status::Returned, changed.bytes, changed.leaves))
        })
    }

    fn translate(&mut self, mut record: Record) -> Result<(), Error> {
        record.what = What::Translate;
        let access = [AccessKind::Read, AccessKind::Write][record.option as usize];
        self.call(record, |view| {
            Ok(match view.translate(record.ipa, access) {
                Ok(hit) => (Status::Returned, hit.pa.get(), u64::from(hit.prot.bits())),
                Err(fault) => match fault.kind {
                    FaultKind::Permission => (Status::PermissionFault, 0, 0),
                    FaultKind::AccessFlag => (Status::AccessFlagFault, 0, 0),
                    _ => (Status::TranslationFault, 0, 0),
                },
            })
        })
    }

    fn read(&mut self, mut record: Record) -> Result<(), Error> {
        record.what = What::Read;
        self.call(record, |view| {
            let found = loop {
                let found = view.lookup(record.ipa)?;
                if !found.pte.is_locked() {
                    break found;
                }
                thread::yield_now();
            };
            if !found.pte.is_leaf(found.level) {
                return Ok((Status::Returned, 0, 0));
            }
            let format = view.format();
            let attrs = format.attrs(found.pte);
            let pa = format.output(found.pte, found.level).get() + (record.ipa.get() - found.base.get());
            let bits = u64::from(attrs.prot.bits()) | u64::from(attrs.af) << 8 | u64::from(attrs.software) << 16;
            Ok((Status::Returned, pa, bits | 1 << 32))
        })
    }
}
