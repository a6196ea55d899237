//! The text of KVM's file `stage2_page_tables`: written, and read back as the class `s2pt.image.Ptdump`.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyList, PyString, PyType};

use super::convert::{choice, short};
use super::exit::Ask;
use super::image::PyImage;
use super::{error, exit, types};
use crate::arch::Prot;
use crate::image::{Ptdump, PtdumpRun, PtdumpStyle};

/// An `s2pt.DumpStyle` or its text.
#[derive(Clone, Copy)]
pub struct StyleArg(pub PtdumpStyle);

impl StyleArg {
    /// Right in everything.
    pub const EXACT: Self = Self(PtdumpStyle::Exact);
}

impl<'py> FromPyObject<'_, 'py> for StyleArg {
    type Error = PyErr;

    fn extract(obj: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let styles = [
            ("exact", PtdumpStyle::Exact),
            ("kvm6", PtdumpStyle::Kvm6),
            ("kvm7", PtdumpStyle::Kvm7),
        ];
        choice(&obj, "style", &styles).map(Self)
    }
}

#[pymethods]
impl PyImage {
    /// The table in the line format of KVM's file ``stage2_page_tables``: a line for each run of entries that are alike.
    ///
    /// Parameters
    /// ----------
    /// style : DumpStyle or str
    ///     ``"exact"``: all entries, as the hardware takes them. ``"kvm6"`` and ``"kvm7"``: what Linux 6.12 or 7 prints, to
    ///     the byte, quirks and all.
    ///
    /// Raises
    /// ------
    /// ImageError
    ///     A table is not there, or is reached twice.
    ///
    /// Examples
    /// --------
    /// >>> from s2pt import Stage2
    /// >>> s2 = Stage2()
    /// >>> _ = s2.map(0x4000_0000, "2MiB", pa=0x8000_0000)
    /// >>> image = s2.image()
    /// >>> print(image.dump().splitlines()[2])
    /// 0x0000000040000000-0x0000000040200000           2M 2   R W PXNUXN AF BLK
    #[pyo3(signature = (style = StyleArg::EXACT), text_signature = "($self, style='exact')")]
    pub fn dump(&self, py: Python<'_>, style: StyleArg) -> PyResult<String> {
        exit::detach(py, || self.image().ptdump(style.0)).map_err(|refused| error::dump(py, &refused))
    }

    /// The runs that `dump` would print in this style; the last one, which the kernel leaves out, is there.
    ///
    /// Returns
    /// -------
    /// list of s2pt.image.PtdumpRun
    #[pyo3(signature = (style = StyleArg::EXACT), text_signature = "($self, style='exact')")]
    fn dump_runs<'py>(&self, py: Python<'py>, style: StyleArg) -> PyResult<Bound<'py, PyList>> {
        let found =
            exit::detach(py, || self.image().ptdump_runs(style.0)).map_err(|refused| error::dump(py, &refused))?;
        runs(py, &found)
    }
}

/// The text of a table as KVM's file ``stage2_page_tables`` shows it, read.
///
/// It tells the runs of entries of one level that show the same, from IPA 0 on; neither output addresses nor memory types.
/// KVM does not print the last run of a table, so it may end before the table does.
///
/// Parameters
/// ----------
/// text : str or bytes
///     The file, or what `Stage2.dump` and `Image.dump` gave. The columns tell which style it is.
///
/// Raises
/// ------
/// PtdumpError
///     The text is none, or is cut off; the error has the number of the line.
///
/// Examples
/// --------
/// >>> from s2pt.image import Ptdump
/// >>> text = '''---[ Guest IPA ]---
/// ... 0x0000000000000000-0x0000000080000000           2G 1
/// ... 0x0000000080000000-0x0000000080200000           2M 2   R W X AF BLK
/// ... '''
/// >>> Ptdump(text).runs[1]  # the X of Linux 6.12: not executable
/// PtdumpRun(ipa=0x80000000, size=2MiB, level=2, kind=mapped, prot=RW, af=True)
/// >>> hex(Ptdump(text).end)
/// '0x80200000'
#[pyclass(name = "Ptdump", module = "s2pt.image", frozen)]
pub struct PyPtdump(Ptdump);

impl PyPtdump {
    /// What was read.
    pub const fn dump(&self) -> &Ptdump {
        &self.0
    }
}

#[pymethods]
impl PyPtdump {
    #[new]
    #[pyo3(signature = (text), text_signature = "(text)")]
    fn new(text: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = text.py();
        let read = if let Ok(text) = text.cast::<PyString>() {
            // Text that is no UTF-8 (lone surrogates) is no dump either, and says so in Rust.
            let bytes = text.to_string_lossy();
            exit::detach(py, || Ptdump::parse(bytes.as_bytes()))
        } else if let Ok(bytes) = text.cast::<PyBytes>() {
            let bytes = bytes.as_bytes();
            exit::detach(py, || Ptdump::parse(bytes))
        } else {
            let message = format!("text must be str or bytes, not {}", short(text));
            return Err(PyTypeError::new_err(message));
        };
        read.map(Self).map_err(|refused| error::ptdump(py, &refused))
    }

    /// The runs in order of IPA, each an `s2pt.image.PtdumpRun`, without a gap between them.
    #[getter]
    fn runs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        runs(py, self.0.runs())
    }

    /// First IPA of which the text says nothing, an int.
    #[getter]
    fn end(&self) -> u64 {
        self.0.end()
    }

    fn __repr__(&self) -> String {
        format!("<Ptdump of {} runs, up to {:#x}>", self.0.runs().len(), self.0.end())
    }
}

fn runs<'py>(py: Python<'py>, runs: &[PtdumpRun]) -> PyResult<Bound<'py, PyList>> {
    static RUN: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let class = RUN.import(py, "s2pt.image", "PtdumpRun")?;
    let list = PyList::empty(py);
    for run in runs {
        let kind = match run.columns {
            None => "empty",
            Some(columns) if columns.valid => "mapped",
            Some(_) => "invalid",
        };
        let (prot, af) = run.columns.map_or((Prot::NONE, false), |shown| (shown.prot, shown.af));
        let prot = types::prot(py, prot)?;
        list.append(class.ask((run.ipa.get(), run.size(), run.level.get(), kind, prot, af))?)?;
    }
    Ok(list)
}
