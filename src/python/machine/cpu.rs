//! The class `s2pt.Cpu`: one simulated CPU of a machine.

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::Walked;
use crate::arch::{AccessKind, Fault};
use crate::machine::{Access, Cpu};
use crate::python::convert::{AccessArg, IpaArg, Number};
use crate::python::exit::Ask;
use crate::python::{error, report};
use crate::vm::{AccessError, Outcome};

/// One simulated CPU of a `Machine`.
///
/// Any thread may drive it. Accesses are of 1, 2, 4 or 8 bytes, aligned to their size.
#[pyclass(name = "Cpu", module = "s2pt", frozen)]
pub struct PyCpu {
    cpu: Cpu,
    walked: Walked,
}

impl PyCpu {
    /// The CPU of a machine that walks `walked`.
    pub const fn new(cpu: Cpu, walked: Walked) -> Self {
        Self { cpu, walked }
    }

    /// Executes an access; with a VM its faults are handled.
    fn execute(&self, py: Python<'_>, access: Access) -> PyResult<u64> {
        match &self.walked {
            Walked::Table(_) => {
                let done = self.walked.away(py, || self.cpu.access(access))?;
                done.map_err(|refused| error::fault(py, &refused))
            }
            Walked::Vm(vm) => {
                let run = || vm.vcpu(|vcpu| self.cpu.run(access, |fault| handled(vcpu.handle_fault(fault)?, fault)));
                let done = self.walked.away(py, run)?;
                match done {
                    Ok(Ok(value)) => Ok(value),
                    Ok(Err(fault)) => Err(error::fault(py, &fault)),
                    Err(refused) => Err(error::access(py, refused)),
                }
            }
        }
    }
}

/// Whether to try again after a fault.
fn handled(outcome: Outcome, fault: &Fault) -> Result<bool, AccessError> {
    match outcome {
        Outcome::Handled(_) => Ok(true),
        Outcome::Again(_) => {
            std::thread::yield_now();
            Ok(true)
        }
        Outcome::Exit(reason) => Err(AccessError::Exit { ipa: fault.ipa, reason }),
    }
}

/// The size of an access.
fn size(py: Python<'_>, size: Number) -> PyResult<u32> {
    match size.0 {
        1 | 2 | 4 | 8 => Ok(size.0 as u32),
        other => Err(error::option(
            py,
            format!("size {other:#x}: an access has 0x1, 0x2, 0x4 or 0x8 bytes"),
        )),
    }
}

/// An access of the CPU, or why there is none.
fn access(py: Python<'_>, ipa: IpaArg, kind: AccessKind, bytes: Number, value: u64) -> PyResult<Access> {
    let size = size(py, bytes)?;
    if !ipa.0.is_aligned(size.into()) {
        let message = format!("ipa {} is not a multiple of the access's size {size:#x}", ipa.0);
        return Err(error::alignment(py, message));
    }
    if size < 8 && value >> (8 * size) != 0 {
        let message = format!("value {value:#x} does not fit in {size:#x} bytes");
        return Err(error::option(py, message));
    }
    Ok(Access {
        ipa: ipa.0,
        kind,
        size,
        value,
    })
}

#[pymethods]
impl PyCpu {
    /// Read `size` bytes, little-endian, as an int.
    ///
    /// Parameters
    /// ----------
    /// ipa : int
    ///     A multiple of `size`.
    /// size : int
    ///     Bytes: 1, 2, 4 or 8.
    ///
    /// Raises
    /// ------
    /// Fault
    ///     Stage 2 refuses it: TranslationFault, PermissionFault, AccessFlagFault, AddressSizeFault.
    /// GuestExit
    ///     There is no memory slot of the VM.
    /// AlignmentError, OptionError
    ///     It is no access.
    ///
    /// Examples
    /// --------
    /// >>> from s2pt import Machine, Stage2
    /// >>> s2 = Stage2()
    /// >>> cpu = Machine(s2).cpus[0]
    /// >>> _ = s2.map(0x1000, 4096, pa=0x1000)
    /// >>> cpu.write(0x1000, 0x1122)
    /// >>> hex(cpu.read(0x1000, size=1))
    /// '0x22'
    #[pyo3(signature = (ipa, size = Number(8)), text_signature = "($self, ipa, size=8)")]
    fn read(&self, py: Python<'_>, ipa: IpaArg, size: Number) -> PyResult<u64> {
        self.execute(py, access(py, ipa, AccessKind::Read, size, 0)?)
    }

    /// Write the lowest `size` bytes of an int, little-endian. Raises as `read`.
    ///
    /// Parameters
    /// ----------
    /// ipa : int
    ///     A multiple of `size`.
    /// value : int
    ///     What is written; it fits in `size` bytes.
    /// size : int
    ///     Bytes: 1, 2, 4 or 8.
    ///
    /// Examples
    /// --------
    /// >>> from s2pt import Machine, Stage2
    /// >>> s2 = Stage2()
    /// >>> cpu = Machine(s2).cpus[0]
    /// >>> _ = s2.map(0x1000, 4096, pa=0x1000)
    /// >>> cpu.write(0x1000, 0xff, size=1)
    /// >>> cpu.read(0x1000)
    /// 255
    #[pyo3(signature = (ipa, value, size = Number(8)), text_signature = "($self, ipa, value, size=8)")]
    fn write(&self, py: Python<'_>, ipa: IpaArg, value: Number, size: Number) -> PyResult<()> {
        self.execute(py, access(py, ipa, AccessKind::Write, size, value.0)?)
            .map(drop)
    }

    /// Fetch the four bytes of an instruction, as an int. Raises as `read`.
    ///
    /// Parameters
    /// ----------
    /// ipa : int
    ///     A multiple of 4.
    ///
    /// Examples
    /// --------
    /// >>> from s2pt import Machine, Prot, Stage2
    /// >>> s2 = Stage2()
    /// >>> cpu = Machine(s2).cpus[0]
    /// >>> _ = s2.map(0x1000, 4096, pa=0x1000, prot=Prot.RWX)
    /// >>> cpu.write(0x1000, 0xd503_201f, size=4)  # nop
    /// >>> hex(cpu.fetch(0x1000))
    /// '0xd503201f'
    fn fetch(&self, py: Python<'_>, ipa: IpaArg) -> PyResult<u64> {
        self.execute(py, access(py, ipa, AccessKind::Execute, Number(4), 0)?)
    }

    /// Execute an access up to the point where it has its translation. It reaches memory with the CPU's next access, with
    /// `finish`, or when a DSB of somebody's waits for it. Its fault is not handled.
    ///
    /// Raises as `read`.
    ///
    /// Parameters
    /// ----------
    /// ipa : int
    ///     A multiple of `size`.
    /// access : Access or str
    ///     ``"r"``, ``"w"`` or ``"x"``.
    /// value : int
    ///     What a write stores.
    /// size : int
    ///     Bytes: 1, 2, 4 or 8.
    ///
    /// Examples
    /// --------
    /// >>> from s2pt import Machine, Stage2
    /// >>> s2 = Stage2()
    /// >>> cpu = Machine(s2).cpus[0]
    /// >>> _ = s2.map(0x1000, 4096, pa=0x1000)
    /// >>> cpu.begin(0x1000, "w", 42)  # has its translation, is not in memory
    /// >>> _ = s2.unmap(0x1000, 4096)  # the DSB of its TLBI waits for the access
    /// >>> print(cpu.finish())
    /// None
    #[pyo3(signature = (ipa, access = AccessArg::READ, value = Number(0), size = Number(8)),
        text_signature = "($self, ipa, access='r', value=0, size=8)")]
    fn begin(&self, py: Python<'_>, ipa: IpaArg, access: AccessArg, value: Number, size: Number) -> PyResult<()> {
        let begun = self::access(py, ipa, access.0, size, value.0)?;
        let done = self.walked.away(py, || self.cpu.begin(begun))?;
        done.map_err(|refused| error::fault(py, &refused))
    }

    /// Let the access in flight reach memory: what it read, or None if there is none, or it has.
    ///
    /// Returns
    /// -------
    /// int or None
    ///     0 for a write.
    ///
    /// Examples
    /// --------
    /// >>> from s2pt import Machine, Stage2
    /// >>> s2 = Stage2()
    /// >>> cpu = Machine(s2).cpus[0]
    /// >>> _ = s2.map(0x1000, 4096, pa=0x1000)
    /// >>> cpu.write(0x1000, 42)
    /// >>> cpu.begin(0x1000)
    /// >>> cpu.finish()
    /// 42
    fn finish(&self, py: Python<'_>) -> PyResult<Option<u64>> {
        self.walked.away(py, || self.cpu.finish())
    }

    /// Read the translation of an address ahead of any access, as hardware may at any time.
    ///
    /// Parameters
    /// ----------
    /// ipa : int
    ///     Any byte address; where nothing translates it nothing happens.
    ///
    /// Examples
    /// --------
    /// >>> from s2pt import Machine, Stage2
    /// >>> s2 = Stage2()
    /// >>> cpu = Machine(s2).cpus[0]
    /// >>> _ = s2.map(0x1000, 4096, pa=0x1000)
    /// >>> cpu.speculate(0x1000)
    /// >>> _ = cpu.read(0x1000)
    /// >>> cpu.counts["hits"]
    /// 1
    fn speculate(&self, py: Python<'_>, ipa: IpaArg) -> PyResult<()> {
        self.walked.away(py, || self.cpu.speculate(ipa.0))
    }

    /// Call `function()` on this CPU: local TLBIs of what it does to the table are this CPU's. Returns what it returns.
    ///
    /// Examples
    /// --------
    /// >>> from s2pt import Machine, Prot, Stage2
    /// >>> s2 = Stage2()
    /// >>> cpu = Machine(s2).cpus[0]
    /// >>> _ = s2.map(0x1000, 4096, pa=0x1000, prot=Prot.R)
    /// >>> _ = cpu.read(0x1000)
    /// >>> cpu.run(lambda: s2.relax(0x1000, 4096, Prot.W))
    /// Changed(leaves=1, bytes=4KiB)
    /// >>> cpu.write(0x1000, 1)
    fn run<'py>(&self, function: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let _bound = self.cpu.bind();
        function.ask(())
    }

    /// Its number in the machine, from 0, an int.
    #[getter]
    fn number(&self) -> usize {
        self.cpu.number()
    }

    /// What it has counted, a dict; as `Machine.counts`.
    #[getter]
    fn counts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        report::numbers(py, self.cpu.counts().iter())
    }

    /// How many translations and tables its caches hold, an int.
    #[getter]
    fn held(&self) -> usize {
        self.cpu.held()
    }

    fn __repr__(&self) -> String {
        format!("<Cpu {} held={}>", self.cpu.number(), self.cpu.held())
    }
}
