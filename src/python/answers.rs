//! Answers of the hardware: what accesses to an image get, and what fault registers say. A row for each, 8 bytes a field.

use numpy::{PyArray1, PyArrayDescr};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::arrays::{elements, no_memory};
use super::convert::{AccessArg, IpaArg, Number};
use super::image::PyImage;
use super::signals::in_parts;
use super::{error, exit, types};
use crate::arch::{AccessKind, El, Esr, FaultKind, Ipa, Pte, Syndrome};
use crate::image::Answer;

/// Code of a fault in result arrays: `s2pt.FaultCode`.
pub const fn code(kind: FaultKind) -> u8 {
    match kind {
        FaultKind::Translation => 1,
        FaultKind::AccessFlag => 2,
        FaultKind::Permission => 3,
        FaultKind::AddressSize => 4,
        FaultKind::ExternalAbort => 5,
        // No walk of tables ends otherwise.
        _ => u8::MAX,
    }
}

/// The dtype of rows with these fields, each 8 bytes.
fn dtype<'py>(
    py: Python<'py>,
    made: &'static PyOnceLock<Py<PyArrayDescr>>,
    fields: &[(&str, &str)],
) -> PyResult<Bound<'py, PyArrayDescr>> {
    let dtype = made.get_or_try_init(py, || PyArrayDescr::new(py, fields.to_vec()).map(Bound::unbind))?;
    Ok(dtype.bind(py).clone())
}

/// Rows worked out between two looks at the clock.
const BETWEEN_LOOKS: usize = 256;

/// The words of so many rows, worked out away from the interpreter.
fn rows<const N: usize>(py: Python<'_>, count: usize, row: impl Fn(usize) -> [u64; N] + Sync) -> PyResult<Vec<u64>> {
    let mut words = Vec::new();
    let room = count.checked_mul(N).ok_or_else(no_memory)?;
    words.try_reserve_exact(room).map_err(|_| no_memory())?;
    in_parts(py, count, |part, until| {
        let words = &mut words;
        Ok(exit::detach(py, || {
            let mut next = part.start;
            while next < part.end && !(next % BETWEEN_LOOKS == 0 && next > part.start && until.is_over()) {
                words.extend(row(next));
                next += 1;
            }
            next
        }))
    })?;
    Ok(words)
}

/// Fields of `access_many`.
const ANSWER: [(&str, &str); 7] = [
    ("pa", "<u8"),
    ("level", "<i8"),
    ("fault", "<u8"),
    ("mair", "<u8"),
    ("entry", "<u8"),
    ("raw", "<u8"),
    ("after", "<u8"),
];

/// `mair` of a fault, and of a reserved MemAttr.
const UNTOLD: u64 = 256;

fn answer_row(answer: &Answer, fwb: bool) -> [u64; 7] {
    let (pa, level, fault, mair) = match answer.result {
        Ok(hit) => (
            hit.pa.get(),
            hit.level,
            0,
            hit.memtype.mair(fwb).map_or(UNTOLD, u64::from),
        ),
        Err(fault) => (0, fault.level, code(fault.kind), UNTOLD),
    };
    let (entry, raw) = answer.end.map_or((0, Pte::EMPTY), |end| (end.pa.get(), end.pte));
    [
        pa,
        i64::from(level.get()) as u64,
        u64::from(fault),
        mair,
        entry,
        raw.raw(),
        answer.after.raw(),
    ]
}

/// The exception level of an access.
fn el(number: Number) -> PyResult<El> {
    match number.0 {
        0 => Ok(El::El0),
        1 => Ok(El::El1),
        other => Err(PyValueError::new_err(format!("el must be 0 or 1, not {other:#x}"))),
    }
}

#[pymethods]
impl PyImage {
    /// Answer one access as a CPU with these registers would.
    ///
    /// Unlike `Stage2.translate` this trusts nothing: a table or leaf beyond the output address size is an
    /// AddressSizeFault, a table that is not there a Fault of kind "external-abort". HA and HD of VTCR_EL2 count.
    ///
    /// Parameters
    /// ----------
    /// ipa : int
    ///     Any byte address.
    /// access : Access or str
    ///     ``"r"``, ``"w"`` or ``"x"``.
    /// el : int
    ///     The guest's exception level, 0 or 1; it decides about fetches where the CPU has FEAT_XNX.
    ///
    /// Returns
    /// -------
    /// Translation
    ///
    /// Raises
    /// ------
    /// TranslationFault, AccessFlagFault, PermissionFault, AddressSizeFault, Fault
    ///     As the hardware reports it; beyond the IPA space at level 0.
    ///
    /// Examples
    /// --------
    /// >>> from s2pt import Prot, Stage2
    /// >>> s2 = Stage2(xnx=True)
    /// >>> s2.map(0x8000_0000, 4096, pa=0x4000_0000, prot=Prot.R | Prot.UX)
    /// Mapped(bytes=4KiB, kept=0B)
    /// >>> hex(s2.image().translate(0x8000_0010, "x", el=0).pa)
    /// '0x40000010'
    /// >>> s2.image().translate(0x8000_0010, "x")
    /// Traceback (most recent call last):
    ///     ...
    /// s2pt.errors.PermissionFault: IPA 0x80000010: the level 3 leaf does not allow execute
    #[pyo3(signature = (ipa, access = AccessArg::READ, *, el = Number(1)), text_signature = "($self, ipa, access='r', *, el=1)")]
    fn translate<'py>(
        &self,
        py: Python<'py>,
        ipa: IpaArg,
        access: AccessArg,
        el: Number,
    ) -> PyResult<Bound<'py, PyAny>> {
        match self.0.translate(ipa.0, access.0, self::el(el)?) {
            Ok(hit) => types::translation(py, &hit),
            Err(refused) => Err(error::fault(py, &refused)),
        }
    }

    /// Answer many accesses, each as `translate` does; faults are answers here, not exceptions.
    ///
    /// Parameters
    /// ----------
    /// ipa : numpy.ndarray of uint64
    ///     One dimension, any byte addresses.
    /// access, el
    ///     As for `translate`, for all.
    ///
    /// Returns
    /// -------
    /// numpy.ndarray
    ///     A row for each address, fields of 8 bytes: `pa` (0 where there is a fault), `level` of the leaf or of the fault,
    ///     `fault` (a FaultCode), the memory type as PAR_EL1 says it, `mair` (256 for none), and of the last entry that the
    ///     walk read its address `entry`, its value `raw`, and what the hardware leaves there, `after`.
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np
    /// >>> from s2pt import Stage2
    /// >>> s2 = Stage2()
    /// >>> s2.map(0, "2MiB", pa=0x4000_0000, af=False)
    /// Mapped(bytes=2MiB, kept=0B)
    /// >>> answers = s2.image().access_many(np.array([0x1234, 0x20_0000], dtype=np.uint64))
    /// >>> answers["fault"].tolist(), [hex(pa) for pa in answers["pa"].tolist()]
    /// ([0, 1], ['0x40001234', '0x0'])
    /// >>> hex(answers["after"][0] ^ answers["raw"][0])  # the access flag
    /// '0x400'
    #[pyo3(signature = (ipa, access = AccessArg::READ, *, el = Number(1)), text_signature = "($self, ipa, access='r', *, el=1)")]
    fn access_many<'py>(
        &self,
        py: Python<'py>,
        ipa: &Bound<'py, PyAny>,
        access: AccessArg,
        el: Number,
    ) -> PyResult<Bound<'py, PyAny>> {
        static DTYPE: PyOnceLock<Py<PyArrayDescr>> = PyOnceLock::new();
        let ipa = elements("ipa", ipa)?;
        let el = self::el(el)?;
        let fwb = self.0.format().fwb();
        let rows = rows(py, ipa.len(), |index| {
            answer_row(&self.0.access(Ipa::new(ipa[index]), access.0, el), fwb)
        })?;
        PyArray1::from_vec(py, rows).call_method1("view", (dtype(py, &DTYPE, &ANSWER)?,))
    }
}

/// Fields of `read_syndromes`.
const SYNDROME: [(&str, &str); 8] = [
    ("ipa", "<u8"),
    ("access", "<u8"),
    ("fault", "<u8"),
    ("level", "<i8"),
    ("s1ptw", "<u8"),
    ("size", "<u8"),
    ("register", "<u8"),
    ("esr", "<u8"),
];

fn syndrome_row(esr: Esr, far: u64, hpfar: u64) -> [u64; 8] {
    let (size, register) = (
        esr.access_size().map_or(0, u64::from),
        esr.register().map_or(0, u64::from),
    );
    let Ok(fault) = (Syndrome { esr, far, hpfar }).fault() else {
        let code = u64::from(code(esr.status().kind));
        return [
            0,
            0,
            if esr.is_guest_abort() { code } else { 0 },
            0,
            0,
            size,
            register,
            0,
        ];
    };
    let access = match fault.access {
        AccessKind::Read => 0,
        AccessKind::Write => 1,
        AccessKind::Execute => 2,
    };
    [
        fault.ipa.get(),
        access,
        u64::from(code(fault.kind)),
        i64::from(fault.level.get()) as u64,
        u64::from(fault.s1ptw),
        size,
        register,
        fault.to_registers().map_or(0, |registers| registers.esr.raw()),
    ]
}

/// Read many stage-2 fault syndromes.
///
/// Parameters
/// ----------
/// esr, far, hpfar : numpy.ndarray of uint64
///     ESR_EL2, FAR_EL2 and HPFAR_EL2 of each fault, one dimension, equally long.
///
/// Returns
/// -------
/// numpy.ndarray
///     A row for each, fields of 8 bytes: `ipa`, `access` (0 read, 1 write, 2 fetch), `fault` (a FaultCode; 0 for what is
///     no abort of the guest, 255 for other faults), `level`, `s1ptw`, `size` in bytes and `register` where the
///     instruction is described (else 0), and `esr`, the value that this fault has without an instruction's description
///     (0 where no table level goes with it).
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> from s2pt.arch import read_syndromes
/// >>> one = lambda value: np.array([value], dtype=np.uint64)
/// >>> row = read_syndromes(one(0x9200_0046), one(0x4068_e088), one(0x40_68e0))[0]
/// >>> hex(row["ipa"]), int(row["access"]), int(row["fault"]), int(row["level"])
/// ('0x4068e088', 1, 1, 2)
#[pyfunction]
pub fn read_syndromes<'py>(
    py: Python<'py>,
    esr: &Bound<'py, PyAny>,
    far: &Bound<'py, PyAny>,
    hpfar: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    static DTYPE: PyOnceLock<Py<PyArrayDescr>> = PyOnceLock::new();
    let esr = elements("esr", esr)?;
    let far = elements("far", far)?;
    let hpfar = elements("hpfar", hpfar)?;
    if esr.len() != far.len() || esr.len() != hpfar.len() {
        let (a, b, c) = (esr.len(), far.len(), hpfar.len());
        let message = format!("esr, far and hpfar must be equally long, not {a}, {b} and {c}");
        return Err(PyValueError::new_err(message));
    }
    let rows = rows(py, esr.len(), |index| {
        syndrome_row(Esr::new(esr[index]), far[index], hpfar[index])
    })?;
    PyArray1::from_vec(py, rows).call_method1("view", (dtype(py, &DTYPE, &SYNDROME)?,))
}
