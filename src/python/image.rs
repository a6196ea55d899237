//! The class `s2pt.image.Image`: a table in bytes, walked without trust.
//!
//! The bytes are taken in when the object is made, so everything after that runs detached and cannot call back. Memory
//! behind a Python function is read once, as far as the walk needs it.

mod leaves;
mod memory;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::convert::{AccessArg, BlocksArg, DialectArg, IpaArg, Number, PaArg};
use super::{error, exit, explain, types};
use crate::arch::{BlockRule, Dialect, El, EntryKind, Vtcr, Vttbr};
use crate::image::{Dump, Image, ImageError, ImageOptions};
pub use leaves::ImageLeaves;
pub use memory::Memory;
use memory::{Reader, bytes};

/// A stage-2 table in bytes: a dump file, or any memory that VTTBR_EL2 points into.
///
/// Nothing in it is trusted: a table that is not there, that lies on the way to itself or that two entries share is
/// refused with its IPA and level.
///
/// Parameters
/// ----------
/// memory : bytes-like or callable
///     The memory from `base` on; or a function ``read(pa, size)`` that gives `size` bytes, or None where there is no
///     memory. It is asked once for each table, before the call returns.
/// vtcr, vttbr : int
///     The registers.
/// base : int
///     Physical address of the first byte of `memory`.
/// fwb, xnx : bool, optional
///     Whether FEAT_S2FWB was in use and whether the CPU has FEAT_XNX; None: found out from the leaves.
/// dialect : str, optional
///     How invalid entries are to be read: ``"own"``, ``"kvm6"`` or ``"kvm7"``; None: found out from the entries.
/// blocks : Blocks or str
///     At which levels a block counts as a leaf.
///
/// Raises
/// ------
/// ImageError
///     The registers describe no table; the message says which rule they break.
///
/// See Also
/// --------
/// s2pt.image.open : reads a dump file.
///
/// Examples
/// --------
/// >>> import struct
/// >>> from s2pt.image import Image
/// >>> memory = bytearray(4096)  # one root page; VTCR: 4 KiB granule, 36-bit IPA, start level 1
/// >>> memory[8:16] = struct.pack("<Q", 0x0040_0000_4000_07fd)  # its second entry: a 1 GiB block, read-write
/// >>> image = Image(memory, vtcr=0x802d355c, vttbr=0x8000, base=0x8000)
/// >>> next(image.leaves())
/// Mapping(ipa=0x40000000, size=1GiB, pa=0x40000000, level=1, prot=RW, memtype=NORMAL, af=True, raw=0x400000400007fd)
#[pyclass(name = "Image", module = "s2pt.image", frozen)]
pub struct PyImage(pub(super) Image<Memory>);

impl PyImage {
    /// The table.
    pub const fn image(&self) -> &Image<Memory> {
        &self.0
    }

    /// The image of a dump.
    pub fn of_dump(py: Python<'_>, bytes: Vec<u8>, options: ImageOptions) -> PyResult<Self> {
        let opened = exit::detach(py, || {
            let dump = Dump::parse(bytes)?;
            let (vtcr, vttbr) = (dump.vtcr(), dump.vttbr());
            Image::new(Memory::Dump(dump), vtcr, vttbr, options)
        });
        opened.map(Self).map_err(|refused| error::dump(py, &refused))
    }
}

fn options(fwb: Option<bool>, xnx: Option<bool>, dialect: Option<DialectArg>, blocks: BlocksArg) -> ImageOptions {
    ImageOptions {
        fwb,
        xnx,
        dialect: dialect.map(|dialect| dialect.0),
        blocks: blocks.0,
    }
}

#[pymethods]
impl PyImage {
    #[new]
    #[pyo3(signature = (
        memory, vtcr, vttbr, *, base = PaArg::ZERO, fwb = None, xnx = None, dialect = None,
        blocks = BlocksArg(BlockRule::Architecture)
    ), text_signature = "(memory, vtcr, vttbr, *, base=0, fwb=None, xnx=None, dialect=None, blocks='arch')")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of a Python constructor")]
    fn new(
        py: Python<'_>,
        memory: Bound<'_, PyAny>,
        vtcr: Number,
        vttbr: Number,
        base: PaArg,
        fwb: Option<bool>,
        xnx: Option<bool>,
        dialect: Option<DialectArg>,
        blocks: BlocksArg,
    ) -> PyResult<Self> {
        let options = options(fwb, xnx, dialect, blocks);
        let (vtcr, vttbr) = (Vtcr::new(vtcr.0), Vttbr::new(vttbr.0));
        let memory = if memory.is_callable() {
            let reader = Reader::new(memory);
            let image = Image::new(&reader, vtcr, vttbr, options).map_err(|refused| error::dump(py, &refused))?;
            image.entries().for_each(drop);
            reader.into_memory()?
        } else {
            Memory::Flat(base.0, bytes("memory", &memory)?)
        };
        let image = exit::detach(py, || Image::new(memory, vtcr, vttbr, options));
        image.map(Self).map_err(|refused| error::dump(py, &refused))
    }

    /// Read a dump in format ``S2DUMP01`` out of bytes.
    ///
    /// Parameters
    /// ----------
    /// data : bytes-like
    ///     The whole file.
    /// fwb, xnx, dialect, blocks
    ///     As for the class.
    ///
    /// Returns
    /// -------
    /// Image
    ///
    /// Raises
    /// ------
    /// ImageError
    ///     The bytes are none, or are cut off.
    ///
    /// Examples
    /// --------
    /// >>> from s2pt import Stage2
    /// >>> from s2pt.image import Image
    /// >>> s2 = Stage2()
    /// >>> _ = s2.map(0x4000_0000, "2MiB", pa=0x8000_0000)
    /// >>> image = Image.from_bytes(s2.image().to_bytes())
    /// >>> image.translate(0x4000_1234).pa == 0x8000_1234
    /// True
    #[staticmethod]
    #[pyo3(signature = (
        data, *, fwb = None, xnx = None, dialect = None, blocks = BlocksArg(BlockRule::Architecture)
    ), text_signature = "(data, *, fwb=None, xnx=None, dialect=None, blocks='arch')")]
    fn from_bytes(
        data: &Bound<'_, PyAny>,
        fwb: Option<bool>,
        xnx: Option<bool>,
        dialect: Option<DialectArg>,
        blocks: BlocksArg,
    ) -> PyResult<Self> {
        Self::of_dump(data.py(), bytes("data", data)?, options(fwb, xnx, dialect, blocks))
    }

    /// Write the table as a dump in format ``S2DUMP01``: every page of it, and the registers.
    ///
    /// Returns
    /// -------
    /// bytes
    ///
    /// Raises
    /// ------
    /// ImageError
    ///     A table is not there, or is reached twice.
    fn to_bytes(&self, py: Python<'_>) -> PyResult<Vec<u8>> {
        exit::detach(py, || self.0.to_dump()).map_err(|refused| error::dump(py, &refused))
    }

    /// VTCR_EL2, an int.
    #[getter]
    fn vtcr(&self) -> u64 {
        self.0.vtcr().raw()
    }

    /// VTTBR_EL2, an int.
    #[getter]
    fn vttbr(&self) -> u64 {
        self.0.vttbr().raw()
    }

    /// Physical address of the root, an int.
    #[getter]
    fn root(&self) -> u64 {
        self.0.root().get()
    }

    /// Bytes of a page and of a table, an int.
    #[getter]
    fn page_size(&self) -> u64 {
        self.0.geometry().granule().size()
    }

    /// The shape that VTCR_EL2 says, a `s2pt.types.Geometry`.
    #[getter]
    fn geometry<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        types::geometry(py, self.0.geometry())
    }

    /// Whether memory types are read as with FEAT_S2FWB, as given or found out.
    #[getter]
    fn fwb(&self) -> bool {
        self.0.format().fwb()
    }

    /// Whether permissions are read as with FEAT_XNX, as given or found out.
    #[getter]
    fn xnx(&self) -> bool {
        self.0.format().xnx()
    }

    /// How invalid entries are read, as given or found out: ``"own"``, ``"kvm6"`` or ``"kvm7"``.
    #[getter]
    fn dialect(&self) -> &'static str {
        match self.0.dialect() {
            Dialect::Own => "own",
            Dialect::Kvm6 => "kvm6",
            Dialect::Kvm7 => "kvm7",
        }
    }

    /// How many tables there are at each level, a dict; the root counts once, however many pages it has.
    #[getter]
    fn tables<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = exit::detach(py, || self.0.stats()).map_err(|refused| error::dump(py, &refused))?;
        let tables = PyDict::new(py);
        let mut level = Some(self.0.geometry().start_level());
        while let Some(here) = level {
            tables.set_item(here.get(), stats.tables[here.slot()])?;
            level = here.deeper();
        }
        Ok(tables)
    }

    /// The entries that are neither empty nor valid, and those without a meaning, in order of IPA.
    ///
    /// Returns
    /// -------
    /// list of tuple
    ///     IPA, level, the 64 bits, and what they say: ``"locked"``, ``"annotated 0x1"``, ``"reserved"``.
    ///
    /// Examples
    /// --------
    /// >>> from s2pt import Stage2
    /// >>> s2 = Stage2()
    /// >>> s2.annotate(0x1000, 4096, 7)
    /// >>> s2.image().invalid()
    /// [(4096, 3, 28, 'annotated 0x7')]
    fn invalid(&self, py: Python<'_>) -> PyResult<Vec<(u64, i8, u64, String)>> {
        let found: Result<Vec<_>, ImageError> = exit::detach(py, || self.0.invalid().collect());
        let found = found.map_err(|refused| error::dump(py, &refused))?;
        let rows = found.into_iter().map(|entry| {
            let text = match entry.kind {
                EntryKind::Annotated(payload) => format!("annotated {payload:#x}"),
                kind => types::kind(kind).to_owned(),
            };
            (entry.ipa.get(), entry.level.get(), entry.pte.raw(), text)
        });
        Ok(rows.collect())
    }

    /// The entries that a walk for an address reads, from the root down, each a `s2pt.Entry`.
    ///
    /// Parameters
    /// ----------
    /// ipa : int
    ///     Any byte address.
    ///
    /// Returns
    /// -------
    /// list of Entry
    ///
    /// Raises
    /// ------
    /// ImageError
    ///     The address is outside the IPA space, or a table on the way is not there.
    ///
    /// Examples
    /// --------
    /// >>> from s2pt import Stage2
    /// >>> s2 = Stage2()
    /// >>> _ = s2.map(0x4000_0000, "2MiB", pa=0x8000_0000)
    /// >>> image = s2.image()
    /// >>> [(entry.level, entry.kind) for entry in image.path(0x4000_0000)]
    /// [(1, 'table'), (2, 'leaf')]
    fn path<'py>(&self, py: Python<'py>, ipa: IpaArg) -> PyResult<Bound<'py, PyList>> {
        let path = self.0.path(ipa.0).map_err(|refused| error::dump(py, &refused))?;
        let list = PyList::empty(py);
        for entry in path {
            list.append(types::entry_of(py, entry.pte, entry.level, entry.ipa, entry.kind)?)?;
        }
        Ok(list)
    }

    /// Follow an access through the table: each entry on its way, what it says, and what the MMU answers.
    ///
    /// The access flag and the dirty state count as VTCR_EL2.HA and HD say.
    ///
    /// Parameters
    /// ----------
    /// ipa : int
    ///     Any byte address; one beyond the IPA space is answered with a translation fault at level 0.
    /// access : Access or str
    ///     ``"r"``, ``"w"`` or ``"x"`` (a fetch at EL1).
    ///
    /// Returns
    /// -------
    /// s2pt.explain.Explanation
    ///     A table that is not there is an external abort at the level of its entries.
    ///
    /// Examples
    /// --------
    /// >>> from s2pt import Stage2
    /// >>> s2 = Stage2()
    /// >>> _ = s2.map(0x4000_0000, "2MiB", pa=0x8000_0000)
    /// >>> image = s2.image()
    /// >>> image.explain(0x4000_0000, "x").fault
    /// WalkFault(kind=permission, level=2)
    #[pyo3(signature = (ipa, access = AccessArg::READ), text_signature = "($self, ipa, access='r')")]
    fn explain<'py>(&self, py: Python<'py>, ipa: IpaArg, access: AccessArg) -> PyResult<Bound<'py, PyAny>> {
        explain::explanation(py, &self.0.explain(ipa.0, access.0, El::El1))
    }

    /// The table as an HTML fragment, for notebooks: numbers by level, and the picture of `_repr_svg_`.
    fn _repr_html_<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        explain::view(slf.as_any(), "html")
    }

    /// The table's address space as a picture, for notebooks.
    fn _repr_svg_<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        explain::view(slf.as_any(), "svg")
    }

    fn __repr__(&self) -> String {
        format!("<Image vtcr={:#x} vttbr={:#x}>", self.vtcr(), self.vttbr())
    }
}
