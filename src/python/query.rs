//! `Stage2`: the calls that look.

use core::mem;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::vec;

use super::convert::{AccessArg, IpaArg, SizeArg};
use super::hook;
use super::image::PyImage;
use super::ptdump::StyleArg;
use super::sink::{Sink, Watch};
use super::stage2::PyStage2;
use super::{error, events, exit, explain, image, leaves, types};
use crate::arch::{El, Ipa};
use crate::memory::Arena;
use crate::sync::{Mutex, TryLockError};
use crate::table::{Error, Handle, Mapping};

/// Leaves that the iterator collects at a time: few at first, for those who look at the first one only.
const FIRST_STEP: usize = 8;
const STEP: usize = 256;

#[pymethods]
impl PyStage2 {
    /// Answer one access as the MMU would at this moment. Writes nothing: no access flag is set.
    ///
    /// Parameters
    /// ----------
    /// ipa : int
    ///     Any byte address.
    /// access : Access or str
    ///     ``"r"``, ``"w"`` or ``"x"`` (a fetch at EL1, which needs `Prot.PX`).
    ///
    /// Returns
    /// -------
    /// Translation
    ///     The physical address of that byte, the leaf's level, permissions and memory type.
    ///
    /// Raises
    /// ------
    /// TranslationFault
    ///     Nothing is mapped there; at level 0 if the address is beyond the IPA space.
    /// AccessFlagFault
    ///     The access flag is clear, and `ha` is off.
    /// PermissionFault
    ///     The leaf does not allow the access.
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2()
    /// >>> s2.map(0x8000_0000, 4096, pa=0x4000_0000, prot=Prot.R)
    /// Mapped(bytes=4KiB, kept=0B)
    /// >>> hex(s2.translate(0x8000_0010).pa)
    /// '0x40000010'
    /// >>> from s2pt import TranslationFault
    /// >>> try:
    /// ...     s2.translate(0x8000_1000)
    /// ... except TranslationFault as fault:
    /// ...     print(fault, fault.level, fault.access)
    /// IPA 0x80001000: no translation at level 3 3 r
    #[pyo3(signature = (ipa, access = AccessArg::READ), text_signature = "($self, ipa, access='r')")]
    fn translate<'py>(&self, py: Python<'py>, ipa: IpaArg, access: AccessArg) -> PyResult<Bound<'py, PyAny>> {
        match self.with(py, 0, |table| table.translate(ipa.0, access.0))? {
            Ok(hit) => types::translation(py, &hit),
            Err(refused) => Err(error::fault(py, &refused)),
        }
    }

    /// Return the entry at which the walk for an address ends: a leaf, an empty one, or what else is there.
    ///
    /// Raises
    /// ------
    /// AddressError
    ///     The address is beyond the IPA space.
    ///
    /// Examples
    /// --------
    /// >>> Stage2().lookup(0x8000_1234)
    /// Entry(raw=0x0, level=1, base=0x80000000, kind=empty)
    fn lookup<'py>(&self, py: Python<'py>, ipa: IpaArg) -> PyResult<Bound<'py, PyAny>> {
        let found = self.with(py, 0, |table| table.lookup(ipa.0))?;
        types::entry(py, &found.map_err(|refused| error::table(py, refused))?)
    }

    /// Return the leaf that translates an address, a `Mapping`; NotMappedError (a KeyError) if none does.
    fn __getitem__<'py>(&self, py: Python<'py>, ipa: IpaArg) -> PyResult<Bound<'py, PyAny>> {
        let leaf = self.with(py, 0, |table| leaf_at(table, ipa.0))?;
        types::mapping(py, &leaf.map_err(|refused| error::table(py, refused))?)
    }

    /// Whether a leaf translates an address.
    fn __contains__(&self, py: Python<'_>, ipa: IpaArg) -> PyResult<bool> {
        let found = self.with(py, 0, |table| table.lookup(ipa.0))?;
        Ok(found.is_ok_and(|found| found.pte.is_leaf(found.level)))
    }

    /// Iterate over the leaves of which a part is in the range, each whole, in ascending order.
    ///
    /// Beside writers the iterator is weakly consistent: each leaf was there at some moment of the iteration, and one
    /// that stayed all the time is seen exactly once. A held iterator holds nothing up.
    ///
    /// Parameters
    /// ----------
    /// ipa : int
    ///     Where the range starts, a multiple of the page size.
    /// size : int or str, optional
    ///     Bytes; without it: to the end of the IPA space.
    ///
    /// Returns
    /// -------
    /// iterator of Mapping
    ///
    /// Raises
    /// ------
    /// AlignmentError, AddressError
    ///     An argument is wrong.
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2()
    /// >>> s2.map(0x1ff000, "12KiB", pa=0x1ff000)
    /// Mapped(bytes=12KiB, kept=0B)
    /// >>> [hex(leaf.ipa) for leaf in s2.leaves(0x200000, "8KiB")]
    /// ['0x200000', '0x201000']
    #[pyo3(signature = (ipa = IpaArg::ZERO, size = None), text_signature = "($self, ipa=0, size=None)")]
    fn leaves(slf: &Bound<'_, Self>, ipa: IpaArg, size: Option<SizeArg>) -> PyResult<LeafIterator> {
        let (start, end) = slf.get().span(slf.py(), ipa, size)?;
        let cursor = Cursor {
            next: start,
            end,
            step: FIRST_STEP,
            ready: Vec::new().into_iter(),
        };
        Ok(LeafIterator {
            table: slf.clone().unbind(),
            cursor: Mutex::new(cursor),
        })
    }

    fn __iter__(slf: &Bound<'_, Self>) -> PyResult<LeafIterator> {
        Self::leaves(slf, IpaArg::ZERO, None)
    }

    /// The leaves of a range as a structured numpy array; as `leaves`, without an object for each.
    ///
    /// Returns
    /// -------
    /// numpy.ndarray
    ///     One dimension; fields ipa, size, pa, level, prot, memtype (the descriptor's MemAttr), af, software, raw, each of
    ///     8 bytes (`level` signed, the others unsigned).
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2()
    /// >>> s2.map(0x4000_0000, "4MiB", pa=0x8000_0000)
    /// Mapped(bytes=4MiB, kept=0B)
    /// >>> a = s2.leaves_array()
    /// >>> int(a["size"].sum()) == 4 << 20, a["level"].tolist()
    /// (True, [2, 2])
    #[pyo3(signature = (ipa = IpaArg::ZERO, size = None), text_signature = "($self, ipa=0, size=None)")]
    fn leaves_array<'py>(&self, py: Python<'py>, ipa: IpaArg, size: Option<SizeArg>) -> PyResult<Bound<'py, PyAny>> {
        let (start, end) = self.span(py, ipa, size)?;
        let rows = self.detached(py, |table| leaves::Rows::of(table, Ipa::new(start), end - start))?;
        rows.map_err(|refused| error::table(py, refused))?.into_array(py)
    }

    /// Every entry that is not empty, as it is: tables, leaves, marks, entries that a peer holds.
    ///
    /// Returns
    /// -------
    /// numpy.ndarray
    ///     One dimension, in ascending order, a table before what is in it; fields ipa, level, raw, each of 8 bytes (`level`
    ///     signed). Through `without_waiting` LOCKED entries are among them.
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2()
    /// >>> _ = s2.map(0x4000_0000, "2MiB", pa=0x8000_0000)
    /// >>> [(hex(ipa), level, hex(raw)) for ipa, level, raw in s2.entries_array().tolist()]
    /// [('0x40000000', 1, '0x100000003'), ('0x40000000', 2, '0x400000800007fd')]
    fn entries_array<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let rows = self.detached(py, |table| {
            let mut rows = leaves::RawRows::new();
            table.for_each_raw(|entry| rows.push(&entry)).map(|()| rows)
        })?;
        rows.map_err(|refused| error::table(py, refused))?.into_array(py)
    }

    /// Take a copy of the table as it is in memory: every frame of it, and the registers.
    ///
    /// Returns
    /// -------
    /// s2pt.image.Image
    ///     Beside writers each entry is as it was at some moment of the call.
    ///
    /// Raises
    /// ------
    /// ImageError
    ///     Writers moved a table about while it was copied: it was reached twice.
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2()
    /// >>> s2.map(0x4000_0000, "2MiB", pa=0x8000_0000)
    /// Mapped(bytes=2MiB, kept=0B)
    /// >>> before = s2.image()
    /// >>> s2.write_protect(0x4000_0000, "2MiB")
    /// Changed(leaves=1, bytes=2MiB)
    /// >>> before.diff(s2.image())
    /// [Difference(ipa=0x40000000, size=2MiB, permission)]
    fn image(&self, py: Python<'_>) -> PyResult<PyImage> {
        let open = self.table(py)?;
        let copied = open.detached(py, |table| {
            let _stay = table.stay();
            image::own(&open)?.to_dump()
        });
        let bytes = copied.map_err(|refused| error::dump(py, &refused))?;
        PyImage::of_dump(py, bytes, image::own_options(&open))
    }

    /// The table in the line format of KVM's file ``stage2_page_tables``: a line for each run of entries that are alike.
    ///
    /// Parameters
    /// ----------
    /// style : DumpStyle or str
    ///     ``"exact"``: all entries, as the hardware takes them; ``F`` marks an invalid entry that is not empty. ``"kvm6"``
    ///     and ``"kvm7"``: what Linux 6.12 or 7 would print of this table, to the byte. 6.12 puts ``X`` where execution is
    ///     *not* allowed; neither prints the last run, and of a long text the first line is the end of a walk before.
    ///
    /// Returns
    /// -------
    /// str
    ///     `s2pt.image.Ptdump` reads it back. Beside writers each entry is as it was at some moment of the call.
    ///
    /// Raises
    /// ------
    /// ImageError
    ///     Writers moved a table about while it was copied: it was reached twice.
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2()
    /// >>> s2.map(0x4000_0000, "2MiB", pa=0x8000_0000)
    /// Mapped(bytes=2MiB, kept=0B)
    /// >>> print(s2.dump().splitlines()[2])
    /// 0x0000000040000000-0x0000000040200000           2M 2   R W PXNUXN AF BLK
    /// >>> print(s2.dump("kvm6").splitlines()[2])
    /// 0x0000000040000000-0x0000000040200000           2M 2   R W X AF BLK
    #[pyo3(signature = (style = StyleArg::EXACT), text_signature = "($self, style='exact')")]
    fn dump(&self, py: Python<'_>, style: StyleArg) -> PyResult<String> {
        self.image(py)?.dump(py, style)
    }

    /// Follow an access through the table: each entry on its way, what it says, and what the MMU answers.
    ///
    /// Parameters
    /// ----------
    /// ipa : int
    ///     Any byte address; one beyond the IPA space is answered with a translation fault at level 0.
    /// access : Access or str
    ///     ``"r"``, ``"w"`` or ``"x"`` (a fetch at EL1, which needs `Prot.PX`).
    ///
    /// Returns
    /// -------
    /// s2pt.explain.Explanation
    ///     Its steps, and a `Translation` or a fault with kind and level. Beside writers each entry is as it was when the
    ///     walk read it.
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2()
    /// >>> s2.map(0x4000_0000, "2MiB", pa=0x8000_0000, prot=Prot.R)
    /// Mapped(bytes=2MiB, kept=0B)
    /// >>> walk = s2.explain(0x4000_1234, "w")
    /// >>> walk.fault
    /// WalkFault(kind=permission, level=2)
    /// >>> print(walk)
    /// write to 0x40001234: permission fault at level 2
    ///   level  index  entry at     value             decoded                                        verdict
    ///       1      1  0x200000008  0x100000003       table at 0x100000000                           go on at level 2
    ///       2      0  0x100000000  0x4000008000077d  block of 2MiB to 0x80000000, R, normal memory  does not allow write
    /// >>> s2.explain(0x4000_1234).translation
    /// Translation(pa=0x80001234, level=2, prot=R, memtype=NORMAL)
    #[pyo3(signature = (ipa, access = AccessArg::READ), text_signature = "($self, ipa, access='r')")]
    fn explain<'py>(&self, py: Python<'py>, ipa: IpaArg, access: AccessArg) -> PyResult<Bound<'py, PyAny>> {
        let open = self.table(py)?;
        let walk = open.work(|table| {
            let _stay = table.stay();
            image::own(&open).map(|image| image.explain(ipa.0, access.0, El::El1))
        });
        explain::explanation(py, &walk.map_err(|refused| error::dump(py, &refused))?)
    }

    /// The table as an HTML fragment, for notebooks: numbers by level, and the picture of `_repr_svg_`.
    fn _repr_html_<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        explain::view(slf.as_any(), "html")
    }

    /// The table's address space as a picture, for notebooks.
    fn _repr_svg_<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        explain::view(slf.as_any(), "svg")
    }

    /// Count table frames and leaves by level, and the bytes mapped. Reads every entry of the table once.
    ///
    /// Returns
    /// -------
    /// s2pt.types.Stats
    ///     Beside writers each number is of some moment during the count.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (shape, census) = self.detached(py, |table| (table.config().geometry, table.stats()))?;
        types::stats(py, &shape, &census)
    }

    /// Wait until every frame that was unlinked is free.
    ///
    /// Waits for the calls of other threads that were under way, at most.
    fn drain(&self, py: Python<'_>) -> PyResult<()> {
        // The frees that it would wait for come after the call that the function is told of.
        if hook::inside() {
            let message = "drain waits for the very call that the sink is told of: call it elsewhere";
            return Err(error::base(py, message.into()));
        }
        self.detached(py, |table| table.drain())
    }

    /// How much maintenance the operations have asked for so far, by kind.
    ///
    /// Returns
    /// -------
    /// dict of str to int
    ///     Numbers of stores to entries, TLBIs of each kind, barriers, cache operations, frames.
    ///
    /// Raises
    /// ------
    /// S2ptError
    ///     The table was not made with ``sink="counting"``.
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2(sink="counting")
    /// >>> s2.map(0x4000_0000, "2MiB", pa=0x8000_0000)
    /// Mapped(bytes=2MiB, kept=0B)
    /// >>> before = s2.counts()["tlbi_ipa"]
    /// >>> s2.unmap(0x4000_0000, "2MiB")
    /// 2097152
    /// >>> before, s2.counts()["tlbi_ipa"]
    /// (0, 1)
    fn counts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        match self.table(py)?.tlb().watch() {
            Watch::Counting(counting) => events::counts(py, &counting.counts()),
            _ => Err(error::base(
                py,
                String::from("nothing was counted: the table needs sink=\"counting\""),
            )),
        }
    }

    /// Take what was recorded since the last call: every store, TLBI, barrier, cache operation and frame, in order.
    ///
    /// The last 65536 events of each thread are kept.
    ///
    /// Returns
    /// -------
    /// list of s2pt.events.Event
    ///
    /// Raises
    /// ------
    /// S2ptError
    ///     The table was not made with ``sink="recording"``.
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2(sink="recording")
    /// >>> s2.map(0x4000_0000, "2MiB", pa=0x8000_0000)
    /// Mapped(bytes=2MiB, kept=0B)
    /// >>> _ = s2.events()
    /// >>> s2.write_protect(0x4000_0000, "2MiB")
    /// Changed(leaves=1, bytes=2MiB)
    /// >>> [event.kind for event in s2.events()]
    /// ['store', 'dsb', 'tlbi_ipa', 'dsb', 'tlbi_stage1', 'dsb', 'isb', 'return']
    fn events<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let table = self.table(py)?;
        match table.tlb().watch() {
            Watch::Recording(recording) => events::list(py, exit::detach(py, || recording.take())),
            _ => Err(error::base(
                py,
                String::from("nothing was recorded: the table needs sink=\"recording\""),
            )),
        }
    }

    /// Take what was recorded since the last call as an object that can be checked, saved, and written for casemate.
    ///
    /// The same steps as `events` gives, and what one has to know of the table to read them. The last 65536 events of each
    /// thread are kept; a recording that lost some cannot be checked.
    ///
    /// Returns
    /// -------
    /// s2pt.recording.Recording
    ///
    /// Raises
    /// ------
    /// S2ptError
    ///     The table was not made with ``sink="recording"``.
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2(sink="recording")
    /// >>> s2.map(0x4000_0000, "2MiB", pa=0x8000_0000)
    /// Mapped(bytes=2MiB, kept=0B)
    /// >>> s2.unmap(0x4000_0000, 4096)
    /// 4096
    /// >>> report = s2.trace().check()
    /// >>> report.ok, report["I2"].checked > 0
    /// (True, True)
    fn trace<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let table = self.table(py)?;
        match table.tlb().watch() {
            Watch::Recording(recording) => events::recording(py, &table, recording),
            _ => Err(error::base(
                py,
                String::from("nothing was recorded: the table needs sink=\"recording\""),
            )),
        }
    }
}

impl PyStage2 {
    /// Start and exclusive end of a range whose size may be left out, checked.
    fn span(&self, py: Python<'_>, ipa: IpaArg, size: Option<SizeArg>) -> PyResult<(u64, u64)> {
        let start = ipa.0;
        let table = self.table(py)?;
        // An IPA beyond the space leaves size 1, which is refused for the IPA's sake.
        let rest = table.config().geometry.ipa_limit().saturating_sub(start.get()).max(1);
        let size = size.map_or(rest, |size| size.0);
        let checked = table.work(|handle| handle.leaves(start, size).map(drop));
        checked.map_err(|refused| error::table(py, refused))?;
        Ok((start.get(), start.get() + size))
    }
}

/// The leaf at an address.
fn leaf_at(table: &Handle<'_, Arena, Sink>, ipa: Ipa) -> Result<Mapping, Error> {
    let found = table.lookup(ipa)?;
    if !found.pte.is_leaf(found.level) {
        return Err(Error::NotMapped {
            ipa,
            level: found.level,
        });
    }
    let size = table.config().geometry.size(found.level);
    Ok(Mapping::new(table.format(), found.base, size, found.level, found.pte))
}

/// Where an iterator stands.
struct Cursor {
    next: u64,
    end: u64,
    step: usize,
    ready: vec::IntoIter<Mapping>,
}

/// Iterator over the leaves of a `Stage2`, each a `Mapping`.
#[pyclass(module = "s2pt._core", frozen)]
pub struct LeafIterator {
    table: Py<PyStage2>,
    /// Held while leaves are collected, never while Python code runs.
    cursor: Mutex<Cursor>,
}

#[pymethods]
impl LeafIterator {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let leaf = self.advance(py)?;
        leaf.map(|leaf| types::mapping(py, &leaf)).transpose()
    }
}

impl LeafIterator {
    fn advance(&self, py: Python<'_>) -> PyResult<Option<Mapping>> {
        let table = self.table.get().table(py)?;
        let patient = self.table.get().is_patient();
        if hook::inside() {
            // The call that the sink's function is told of may be this iterator's own.
            let mut cursor = match self.cursor.try_lock() {
                Ok(cursor) => cursor,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    return Err(PyValueError::new_err("this iterator is giving its next leaf already"));
                }
            };
            let found = table.work(|handle| cursor.advance(&handle.without_waiting()));
            return found.map_err(|refused| error::table(py, refused));
        }
        let advance = |handle: &Handle<'_, Arena, Sink>| {
            let mut cursor = self.cursor.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            if patient {
                cursor.advance(handle)
            } else {
                cursor.advance(&handle.without_waiting())
            }
        };
        // A peer may hold an entry until a function, its sink, gets the GIL. Nobody waits for the cursor while attached then.
        let collected = if table.tlb().stalls() {
            table.detached(py, advance)
        } else {
            table.work(advance)
        };
        collected.map_err(|refused| error::table(py, refused))
    }
}

impl Cursor {
    /// The next leaf, from what was collected or from the table.
    fn advance(&mut self, table: &Handle<'_, Arena, Sink>) -> Result<Option<Mapping>, Error> {
        if let Some(leaf) = self.ready.next() {
            return Ok(Some(leaf));
        }
        if self.next >= self.end {
            return Ok(None);
        }
        let step = mem::replace(&mut self.step, STEP);
        let (start, size) = (Ipa::new(self.next), self.end - self.next);
        let found: Vec<_> = table.leaves(start, size)?.take(step).collect();
        self.next = if found.len() < step {
            self.end
        } else {
            found[step - 1].ipa.get() + found[step - 1].size
        };
        self.ready = found.into_iter();
        Ok(self.ready.next())
    }
}
