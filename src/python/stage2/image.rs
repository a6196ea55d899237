//! `Stage2` seen from outside: copied, written as text, explained, drawn.
//!
//! A live table is looked at as dumps are, by `crate::image`: in place or over a copy.

use pyo3::prelude::*;

use super::PyStage2;
use crate::arch::{Dialect, El};
use crate::image::{Image, ImageError, ImageOptions, ReadMemory};
use crate::python::convert::{AccessArg, IpaArg};
use crate::python::image::PyImage;
use crate::python::open::Table;
use crate::python::ptdump::StyleArg;
use crate::python::{error, explain};

#[pymethods]
impl PyStage2 {
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
            own(&open)?.to_dump()
        });
        let bytes = copied.map_err(|refused| error::dump(py, &refused))?;
        PyImage::of_dump(py, bytes, own_options(&open))
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
            own(&open).map(|image| image.explain(ipa.0, access.0, El::El1))
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
}

/// What a live table was made for.
fn own_options(table: &Table) -> ImageOptions {
    let config = table.config();
    ImageOptions {
        fwb: Some(config.fwb),
        xnx: Some(config.xnx),
        dialect: Some(Dialect::Own),
        blocks: config.geometry.block_rule(),
    }
}

/// A live table as an image. The caller stays in the table meanwhile.
fn own(table: &Table) -> Result<Image<impl ReadMemory + '_>, ImageError> {
    let memory = |pa| table.memory().read(pa);
    Image::new(memory, table.vtcr(), table.vttbr(), own_options(table))
}
