//! The class `s2pt.Machine`: simulated CPUs over a table or a VM of Python's, and what they found.

mod cpu;

pub use cpu::PyCpu;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyList, PyTuple, PyType};

use super::convert::{IpaArg, Number, PaArg, SizeArg};
use super::exit::Ask;
use super::open::{Open, OpenVm};
use super::stage2::PyStage2;
use super::vm::PyVm;
use super::{error, events, exit, report};
use crate::arch::{AccessKind, Ipa, Pa};
use crate::machine::{Entry, Machine, MachineOptions, Port, What};
use crate::sync::Arc;

/// What the CPUs walk.
#[derive(Clone)]
pub enum Walked {
    Table(Arc<Open>),
    Vm(Arc<OpenVm>),
}

impl Walked {
    /// Does `work` away from the interpreter.
    fn away<R: Send>(&self, py: Python<'_>, work: impl FnOnce() -> R + Send) -> PyResult<R> {
        let _inside = match self {
            Self::Table(open) => {
                open.check(py)?;
                open.enter()
            }
            Self::Vm(vm) => {
                vm.check(py)?;
                vm.enter()
            }
        };
        Ok(exit::detach(py, work))
    }
}

/// Simulated hardware that judges the software: CPUs with TLBs that walk a live table.
///
/// From now on every step of the table takes effect on the CPUs as late, and in as bad an order, as the architecture allows.
/// Where an operation relied on more, `violations` says so. The library's own operations rely on nothing more; to see what
/// happens when a step is missing, put one in with `Stage2.poke`, past the protocol.
///
/// Parameters
/// ----------
/// table : Stage2 or Vm
///     What the CPUs walk; it can have one machine. With a `Vm` each fault is handled by the VM.
/// cpus : int
///     How many, 1 to 256.
/// ram : int or str, optional
///     Bytes of the guest's memory, from `pa` on; beyond it reads give 0 and writes are lost. None: memory at every address,
///     a little slower.
/// pa : int
///     Where that memory begins, 4 KiB aligned.
/// log : int
///     How many of the last happenings `log` keeps.
///
/// Raises
/// ------
/// OptionError
///     There can be no such machine, or the table has one.
///
/// Notes
/// -----
/// TLBs evict nothing. A TLBI takes effect at the DSB that completes it; TLBIs that no DSB separates do so in the worse order;
/// what was dropped is read again at once; a new entry is seen by other CPUs at the barrier that publishes it. A thread that
/// runs on no CPU (see `Cpu.run`) has its local TLBIs go nowhere.
///
/// Examples
/// --------
/// >>> from s2pt import Machine, Prot, Stage2
/// >>> s2 = Stage2()
/// >>> machine = Machine(s2, cpus=2)
/// >>> _ = s2.map(0x8000_0000, "2MiB", pa=0x4000_0000, prot=Prot.RW)
/// >>> machine.cpus[0].write(0x8000_1000, 42)
/// >>> machine.cpus[1].read(0x8000_1000)
/// 42
/// >>> _ = s2.unmap(0x8000_0000, "2MiB")
/// >>> machine.cpus[1].read(0x8000_1000)
/// Traceback (most recent call last):
///     ...
/// s2pt.errors.TranslationFault: IPA 0x80001000: no translation at level 1
/// >>> machine.audit(), machine.violations
/// (0, [])
/// >>> _ = s2.map(0x1000, 4096, pa=0x1000)
/// >>> _ = machine.cpus[0].read(0x1000)
/// >>> _ = s2.poke(0x1000, 3, 0)  # an entry that goes without break, TLBI and barrier
/// >>> machine.audit()
/// 2
/// >>> machine.violations[0].kind
/// 'stale'
#[pyclass(name = "Machine", module = "s2pt", frozen, weakref)]
pub struct PyMachine {
    machine: Machine,
    port: Port,
    walked: Walked,
}

/// Most CPUs of a machine.
const MOST_CPUS: u64 = 256;

#[pymethods]
impl PyMachine {
    #[new]
    #[pyo3(signature = (table, cpus = Number(4), *, ram = None, pa = None, log = Number(1000)),
        text_signature = "(table, cpus=4, *, ram=None, pa=None, log=1000)")]
    fn new(
        py: Python<'_>,
        table: &Bound<'_, PyAny>,
        cpus: Number,
        ram: Option<SizeArg>,
        pa: Option<PaArg>,
        log: Number,
    ) -> PyResult<Self> {
        let walked = if let Ok(table) = table.cast::<PyStage2>() {
            Walked::Table(table.get().table(py)?)
        } else if let Ok(vm) = table.cast::<PyVm>() {
            Walked::Vm(vm.get().open().clone())
        } else {
            let kind = table.get_type().name()?;
            let message = format!("a machine walks a Stage2 or a Vm, not {kind}");
            return Err(pyo3::exceptions::PyTypeError::new_err(message));
        };
        if !(1..=MOST_CPUS).contains(&cpus.0) {
            let message = format!("cpus {:#x}: a machine has 0x1 to {MOST_CPUS:#x} CPUs", cpus.0);
            return Err(error::option(py, message));
        }
        if pa.is_some() && ram.is_none() {
            return Err(error::option(py, "pa says where ram begins; ram is missing".into()));
        }
        let base = pa.map_or(Pa::new(0), |pa| pa.0);
        let options = MachineOptions {
            cpus: cpus.0 as usize,
            ram: ram.map(|bytes| (base, bytes.0)),
            log: usize::try_from(log.0).unwrap_or(usize::MAX),
            ..MachineOptions::default()
        };
        let machine = Machine::new(options).map_err(|refused| {
            let bytes = ram.map_or(0, |bytes| bytes.0);
            error::option(py, format!("ram {bytes:#x} from {base}: {refused}"))
        })?;
        let port = machine.port();
        let attached = match &walked {
            Walked::Table(open) => port.attach(open) && open.tlb().plug(port.clone()),
            Walked::Vm(open) => port.attach(open) && open.stage2().tlb().plug(port.clone()),
        };
        if !attached {
            return Err(error::option(py, "the table has a machine already".into()));
        }
        machine.load(&port);
        Ok(Self { machine, port, walked })
    }

    /// Its CPUs, a tuple.
    #[getter]
    fn cpus<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let cpus = (0..self.machine.cpus()).map(|number| PyCpu::new(self.machine.cpu(number), self.walked.clone()));
        let cpus: Vec<_> = cpus.map(|cpu| Bound::new(py, cpu)).collect::<PyResult<_>>()?;
        PyTuple::new(py, cpus)
    }

    /// What was broken so far, a list of `s2pt.machine.Violation`; of very many the first 256.
    #[getter]
    fn violations<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        let class = CLASS.import(py, "s2pt.machine", "Violation")?;
        let list = PyList::empty(py);
        for found in self.machine.violations() {
            let ipa = found.ipa.map(Ipa::get);
            let arguments = (found.sequence, found.kind.name(), found.cpu, ipa, found.what);
            list.append(class.ask(arguments)?)?;
        }
        Ok(list)
    }

    /// How many rules were broken so far, an int.
    #[getter]
    fn violated(&self) -> u64 {
        self.machine.violated()
    }

    /// Look whether any CPU holds, or uses, more than the table gives, and whether what hardware noted is still there.
    ///
    /// Nothing else may run meanwhile. Returns how many violations that added.
    ///
    /// Returns
    /// -------
    /// int
    ///     How many violations that added.
    ///
    /// Examples
    /// --------
    /// >>> from s2pt import Machine, Stage2
    /// >>> s2 = Stage2()
    /// >>> machine = Machine(s2, cpus=2)
    /// >>> _ = s2.map(0x1000, 4096, pa=0x1000)
    /// >>> _ = machine.cpus[0].read(0x1000)
    /// >>> _ = s2.poke(0x1000, 3, 0)  # no break, no TLBI
    /// >>> machine.audit() > 0, machine.violations[0].kind
    /// (True, 'stale')
    fn audit(&self, py: Python<'_>) -> PyResult<u64> {
        self.walked.away(py, || self.machine.audit())
    }

    /// The same for a range, by who knows that nobody is changing what it translates to.
    ///
    /// Parameters
    /// ----------
    /// ipa : int
    ///     Its first address.
    /// size : int or str
    ///     Its bytes.
    ///
    /// Returns
    /// -------
    /// int
    ///     How many violations that added.
    ///
    /// Examples
    /// --------
    /// >>> from s2pt import Machine, Stage2
    /// >>> s2 = Stage2()
    /// >>> machine = Machine(s2, cpus=2)
    /// >>> _ = s2.map(0x1000, 4096, pa=0x1000)
    /// >>> machine.cpus[0].write(0x1000, 1)
    /// >>> _ = s2.unmap(0x1000, 4096)
    /// >>> machine.check(0x1000, 4096)
    /// 0
    fn check(&self, py: Python<'_>, ipa: IpaArg, size: SizeArg) -> PyResult<u64> {
        self.walked.away(py, || self.machine.check(&self.port, ipa.0, size.0))
    }

    /// Take what hardware noted of a range: who has just taken rights, access flags or mappings away there says so, since
    /// what is then missing was not lost.
    ///
    /// Parameters
    /// ----------
    /// ipa : int
    ///     Its first address.
    /// size : int or str
    ///     Its bytes.
    ///
    /// Examples
    /// --------
    /// >>> from s2pt import Machine, Stage2
    /// >>> s2 = Stage2()
    /// >>> machine = Machine(s2, cpus=2)
    /// >>> _ = s2.map(0x1000, 4096, pa=0x1000)
    /// >>> machine.cpus[0].write(0x1000, 1)
    /// >>> _ = s2.unmap(0x1000, 4096)  # by who means to lose what was noted there
    /// >>> machine.forget(0x1000, 4096)
    /// >>> machine.audit()
    /// 0
    fn forget(&self, py: Python<'_>, ipa: IpaArg, size: SizeArg) -> PyResult<()> {
        self.walked.away(py, || self.machine.forget(&self.port, ipa.0, size.0))
    }

    /// The last happenings, a list of `s2pt.machine.LogEntry` in order.
    ///
    /// Returns
    /// -------
    /// list of s2pt.machine.LogEntry
    ///     As many as the machine keeps (`log`); they stay in it.
    ///
    /// Examples
    /// --------
    /// >>> from s2pt import Machine, Stage2
    /// >>> s2 = Stage2()
    /// >>> machine = Machine(s2, cpus=2)
    /// >>> _ = s2.map(0x1000, 4096, pa=0x1000)
    /// >>> machine.cpus[0].write(0x1000, 1)
    /// >>> [entry.kind for entry in machine.log()[-2:]]
    /// ['fill', 'write']
    fn log<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        let class = CLASS.import(py, "s2pt.machine", "LogEntry")?;
        let list = PyList::empty(py);
        for entry in self.machine.log() {
            let (kind, fields) = happening(py, &entry)?;
            list.append(class.ask((entry.sequence, entry.cpu, kind, fields))?)?;
        }
        Ok(list)
    }

    /// What all CPUs have counted, a dict: ``accesses``, ``hits`` (of them, in the TLB), ``fills``, ``faults`` and
    /// ``updates`` (of access flags and dirty state, by hardware).
    #[getter]
    fn counts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        report::numbers(py, self.machine.counts().iter())
    }

    /// The maintenance that reached the CPUs, by kind, a dict.
    #[getter]
    fn maintenance<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        events::counts(py, &self.machine.maintenance())
    }

    /// Guest memory as it is, past all translation.
    ///
    /// Parameters
    /// ----------
    /// pa : int
    ///     First physical address, a multiple of 8.
    /// size : int or str
    ///     Bytes, a multiple of 8, at most 1 GiB.
    ///
    /// Returns
    /// -------
    /// bytes
    ///
    /// Raises
    /// ------
    /// AlignmentError
    ///     `pa` or `size` is no multiple of 8.
    /// OptionError
    ///     More than 1 GiB.
    /// AddressError
    ///     There is not memory at all of it.
    ///
    /// Examples
    /// --------
    /// >>> from s2pt import Machine, Stage2
    /// >>> s2 = Stage2()
    /// >>> machine = Machine(s2, cpus=2)
    /// >>> _ = s2.map(0x1000, 4096, pa=0x1000)
    /// >>> machine.cpus[0].write(0x1008, 0x1122)
    /// >>> machine.memory(0x1000, 16).hex()
    /// '00000000000000002211000000000000'
    fn memory<'py>(&self, py: Python<'py>, pa: PaArg, size: SizeArg) -> PyResult<Bound<'py, pyo3::types::PyBytes>> {
        if !pa.0.is_aligned(8) || !size.0.is_multiple_of(8) {
            let message = format!("pa {} and size {:#x} must be multiples of 0x8", pa.0, size.0);
            return Err(error::alignment(py, message));
        }
        if size.0 > 1 << 30 {
            let message = format!("size {:#x}: at most {:#x} bytes at a time", size.0, 1u64 << 30);
            return Err(error::option(py, message));
        }
        let bytes = self.walked.away(py, || self.machine.ram().bytes(pa.0, size.0))?;
        let missing = || error::address(py, format!("no memory at all of {} of size {:#x}", pa.0, size.0));
        Ok(pyo3::types::PyBytes::new(py, &bytes.ok_or_else(missing)?))
    }

    fn __repr__(&self) -> String {
        let (cpus, violated) = (self.machine.cpus(), self.machine.violated());
        format!("<Machine cpus={cpus} violated={violated}>")
    }
}

/// What happened, as a kind and what belongs to it.
fn happening<'py>(py: Python<'py>, entry: &Entry) -> PyResult<(&'static str, Bound<'py, PyDict>)> {
    let fields = PyDict::new(py);
    let kind = match entry.what {
        What::Step(event) => return events::describe(py, &event),
        What::Access { kind, ipa, pa } => {
            fields.set_item("ipa", ipa.get())?;
            fields.set_item("pa", pa.get())?;
            match kind {
                AccessKind::Read => "read",
                AccessKind::Write => "write",
                AccessKind::Execute => "fetch",
            }
        }
        What::Fault(fault) => {
            fields.set_item("ipa", fault.ipa.get())?;
            fields.set_item("level", fault.level.get())?;
            if let Ok(registers) = fault.to_registers() {
                fields.set_item("esr", registers.esr.raw())?;
            }
            "fault"
        }
        What::Fill { ipa, entry, leaf } => {
            fields.set_item("ipa", ipa.get())?;
            fields.set_item("entry", entry.get())?;
            fields.set_item("leaf", leaf.raw())?;
            "fill"
        }
        What::Update { entry, old, new } => {
            fields.set_item("entry", entry.get())?;
            fields.set_item("old", old.raw())?;
            fields.set_item("new", new.raw())?;
            "update"
        }
        What::Violation(kind) => {
            fields.set_item("what", kind.name())?;
            "violation"
        }
    };
    Ok((kind, fields))
}
