//! Values taken apart for a reader: entries and registers as rows.

use pyo3::prelude::*;

use super::convert::{DialectArg, GranuleArg, LevelArg, Number, PaBits};
use super::error;
use crate::arch::{
    self, AccessKind, Dialect, Esr, Fault, Field, Format, FormatOptions, Geometry, GeometryOptions, Granule, Pte, Vtcr,
    Vttbr,
};

/// A field: bits, name, value and meaning; bits are empty for what follows from several fields.
type Row = (String, String, u64, String);

fn row(field: Field) -> Row {
    let bits = if field.high == field.low {
        field.high.to_string()
    } else {
        format!("{}:{}", field.high, field.low)
    };
    (bits, field.name.to_owned(), field.value, field.meaning)
}

fn rows(fields: Vec<Field>) -> Vec<Row> {
    fields.into_iter().map(row).collect()
}

/// A conclusion from several fields.
fn conclusion(name: &str, meaning: String) -> Row {
    (String::new(), name.to_owned(), 0, meaning)
}

/// Explain a table entry field by field.
///
/// Parameters
/// ----------
/// value : int
///     Its 64 bits.
/// level : int
///     The level of the table that it stands in, -1..3.
/// granule, lpa2, xnx, fwb, pa_bits
///     What the table was made for, as for `Stage2`.
/// dialect : str
///     Whose invalid entries: ``"own"``, ``"kvm6"`` (Linux up to 6.x) or ``"kvm7"``.
///
/// Returns
/// -------
/// list of tuple
///     Bits (``"47:12"``), name, value and meaning of each field, from the highest bit down.
///
/// Examples
/// --------
/// >>> from s2pt.arch import explain_entry
/// >>> for bits, name, value, meaning in explain_entry(0x0040_0000_4020_07fd, level=2):
/// ...     if name in ("OA", "AF"):
/// ...         print(bits, name, hex(value), meaning)
/// 47:21 OA 0x201 output address 0x40200000
/// 10 AF 0x1 accessed
#[pyfunction]
#[pyo3(signature = (
    value, *, level, granule = GranuleArg(Granule::K4), lpa2 = false, xnx = false, fwb = false, pa_bits = PaBits(48), dialect = DialectArg(Dialect::Own)
), text_signature = "(value, *, level, granule=4096, lpa2=False, xnx=False, fwb=False, pa_bits=48, dialect='own')")]
#[expect(clippy::too_many_arguments, reason = "keyword arguments of a Python function")]
pub fn explain_entry(
    py: Python<'_>,
    value: Number,
    level: LevelArg,
    granule: GranuleArg,
    lpa2: bool,
    xnx: bool,
    fwb: bool,
    pa_bits: PaBits,
    dialect: DialectArg,
) -> PyResult<Vec<Row>> {
    // The size of the IPA space says nothing about an entry; 48 bits exist for each granule.
    let options = GeometryOptions {
        granule: granule.0,
        ipa_bits: 48,
        pa_bits: pa_bits.0,
        lpa2,
        ..Default::default()
    };
    let geometry = Geometry::new(options).map_err(|refused| error::shape(py, refused))?;
    let format = Format::new(&geometry, FormatOptions { fwb, xnx });
    let fields = arch::explain_entry(Pte::from_raw(value.0), level.0, &geometry, &format, dialect.0);
    Ok(rows(fields))
}

/// Explain a VTCR_EL2 value field by field; the last row says which table it describes, or which rule it breaks.
///
/// Returns
/// -------
/// list of tuple
///     Bits, name, value and meaning of each field, from the highest bit down.
///
/// Examples
/// --------
/// >>> from s2pt.arch import explain_vtcr
/// >>> explain_vtcr(0x802d_3558)[-1]
/// ('', 'geometry', 0, '4KiB granule, 40-bit IPA, 48-bit PA, start level 1, 2 root frames')
/// >>> explain_vtcr(0x802d_f558)[-1]
/// ('', 'refused', 0, 'TG0 = 3 is no granule')
#[pyfunction]
pub fn explain_vtcr(value: Number) -> Vec<Row> {
    let vtcr = Vtcr::new(value.0);
    let mut rows = rows(arch::explain_vtcr(vtcr));
    rows.push(match vtcr.geometry() {
        Ok(shape) => {
            let (frames, plural) = (shape.root_frames(), if shape.root_frames() == 1 { "" } else { "s" });
            let meaning = format!(
                "{} granule, {}-bit IPA, {}-bit PA, start level {}, {frames} root frame{plural}",
                shape.granule(),
                shape.ipa_bits(),
                shape.pa_bits(),
                shape.start_level(),
            );
            conclusion("geometry", meaning)
        }
        Err(refused) => conclusion("refused", refused.to_string()),
    });
    rows
}

/// Explain a VTTBR_EL2 value field by field.
///
/// Parameters
/// ----------
/// value : int
///     The register.
/// vtcr : int, optional
///     The VTCR_EL2 that goes with it: it says where the top bits of the address are, and how the root is aligned.
///
/// Returns
/// -------
/// list of tuple
///     Bits, name, value and meaning of each field, from the highest bit down.
#[pyfunction]
#[pyo3(signature = (value, *, vtcr = None))]
pub fn explain_vttbr(value: Number, vtcr: Option<Number>) -> Vec<Row> {
    let vttbr = Vttbr::new(value.0);
    let Some(vtcr) = vtcr.map(|vtcr| Vtcr::new(vtcr.0)) else {
        return rows(arch::explain_vttbr(vttbr, None));
    };
    match vtcr.geometry() {
        Ok(shape) => {
            let mut rows = rows(arch::explain_vttbr(vttbr, Some(&shape)));
            if let Err(refused) = vttbr.validate(vtcr, &shape) {
                rows.push(conclusion("refused", refused.to_string()));
            }
            rows
        }
        Err(refused) => {
            let mut rows = rows(arch::explain_vttbr(vttbr, None));
            rows.push(conclusion("refused", format!("VTCR_EL2: {refused}")));
            rows
        }
    }
}

/// Explain an ESR_EL2 value field by field.
///
/// Parameters
/// ----------
/// value : int
///     The register.
/// far, hpfar : int, optional
///     FAR_EL2 and HPFAR_EL2 of the same exception. With both, the last row says which fault they report.
///
/// Returns
/// -------
/// list of tuple
///     Bits, name, value and meaning of each field, from the highest bit down; those of HPFAR_EL2 follow.
///
/// Examples
/// --------
/// >>> from s2pt.arch import explain_esr
/// >>> explain_esr(0x9200_0046, far=0x4068_e088, hpfar=0x40_68e0)[-1]
/// ('', 'fault', 0, 'write to IPA 0x4068e088: translation fault, level 2')
#[pyfunction]
#[pyo3(signature = (value, *, far = None, hpfar = None))]
pub fn explain_esr(value: Number, far: Option<Number>, hpfar: Option<Number>) -> Vec<Row> {
    let esr = Esr::new(value.0);
    let mut rows = rows(arch::explain_esr(esr));
    if let Some(hpfar) = &hpfar {
        rows.extend(arch::explain_hpfar(hpfar.0).into_iter().map(row));
    }
    if let (Some(far), Some(hpfar)) = (far, hpfar) {
        rows.push(match Fault::from_registers(esr.raw(), far.0, hpfar.0) {
            Ok(fault) => {
                let access = match fault.access {
                    AccessKind::Read => "read of",
                    AccessKind::Write => "write to",
                    AccessKind::Execute => "fetch from",
                };
                let walk = if fault.s1ptw { ", by a stage-1 walk" } else { "" };
                conclusion("fault", format!("{access} IPA {}: {}{walk}", fault.ipa, esr.status()))
            }
            Err(refused) => conclusion("refused", refused.to_string()),
        });
    }
    rows
}
