//! `Stage2`: what there is at one address.

use pyo3::prelude::*;

use super::PyStage2;
use crate::arch::Ipa;
use crate::memory::Arena;
use crate::python::convert::{AccessArg, IpaArg};
use crate::python::sink::Sink;
use crate::python::{error, types};
use crate::table::{Error, Handle, Mapping};

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
    /// Parameters
    /// ----------
    /// ipa : int
    ///     Any byte address.
    ///
    /// Returns
    /// -------
    /// Entry
    ///     Its 64 bits, its level, the first address that it is for, and what it is.
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
