//! `Vm`: what its guest does: accesses, and the faults that they meet.

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::PyVm;
use crate::arch::{Fault, FaultKind, Ipa};
use crate::memory::Arena;
use crate::python::convert::{AccessArg, FaultKindArg, IpaArg, LevelArg, Number};
use crate::python::signals::in_parts;
use crate::python::sink::Sink;
use crate::python::{arrays, error, types};
use crate::table;
use crate::vm::{self, Outcome, Vcpu};

/// Accesses of an array between two looks at the clock.
const BETWEEN_LOOKS: usize = 64;

#[pymethods]
impl PyVm {
    /// Execute an access as a guest does: ask the MMU, handle the faults that it reports, until it succeeds.
    ///
    /// Parameters
    /// ----------
    /// ipa : int
    ///     Any byte address.
    /// access : Access or str
    ///     ``"r"``, ``"w"`` or ``"x"``.
    ///
    /// Returns
    /// -------
    /// Translation
    ///
    /// Raises
    /// ------
    /// GuestExit
    ///     There is no memory there, or it may not be written: `reason` says so.
    /// OutOfFramesError
    ///     Too few frames for the tables.
    ///
    /// Examples
    /// --------
    /// >>> import s2pt
    /// >>> vm = s2pt.Vm(memory="64MiB")
    /// >>> vm.access(0x4000_1234, "w")
    /// Translation(pa=0x40001234, level=2, prot=RW, memtype=NORMAL)
    /// >>> vm.access(0x900_0000)
    /// Traceback (most recent call last):
    ///     ...
    /// s2pt.errors.GuestExit: access to 0x9000000 exits: mmio
    #[pyo3(signature = (ipa, access = AccessArg::READ), text_signature = "($self, ipa, access='r')")]
    fn access<'py>(&self, py: Python<'py>, ipa: IpaArg, access: AccessArg) -> PyResult<Bound<'py, PyAny>> {
        self.vm.check(py)?;
        let tried = match self.vm.may_wait() {
            true => Ok(None),
            false => self.vm.vcpu(|vcpu| vcpu.try_access(ipa.0, access.0)),
        };
        let done = match tried {
            Ok(Some(hit)) => Ok(hit),
            Ok(None) => self.away(py, || self.vm.vcpu(|vcpu| vcpu.access(ipa.0, access.0)))?,
            Err(refused) => Err(refused),
        };
        match done {
            Ok(hit) => types::translation(py, &hit),
            Err(refused) => Err(error::access(py, refused)),
        }
    }

    /// Execute an access to each address of an array, by one vCPU; return how many faults that took.
    ///
    /// Parameters
    /// ----------
    /// ipa : numpy.ndarray of uint64
    ///     Any byte addresses, one dimension.
    /// access : Access or str
    ///     ``"r"``, ``"w"`` or ``"x"``.
    ///
    /// Raises
    /// ------
    /// GuestExit, OutOfFramesError
    ///     As for `access`, with the element's index as `index`; the accesses before it are done.
    /// KeyboardInterrupt
    ///     Between two accesses: those before it are done.
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np
    /// >>> import s2pt
    /// >>> vm = s2pt.Vm(memory="64MiB")
    /// >>> vm.touch(np.arange(0x4000_0000, 0x4400_0000, 4096, dtype=np.uint64), "w")  # one for each block of 2 MiB
    /// 32
    #[pyo3(signature = (ipa, access = AccessArg::READ), text_signature = "($self, ipa, access='r')")]
    fn touch(&self, py: Python<'_>, ipa: &Bound<'_, PyAny>, access: AccessArg) -> PyResult<u64> {
        let ipa = arrays::elements("ipa", ipa)?;
        let mut faults = 0;
        in_parts(py, ipa.len(), |part, until| {
            self.away(py, || {
                self.vm.vcpu(|vcpu| {
                    let mut next = part.start;
                    // A look at the clock costs as much as an access that hits.
                    while next < part.end && !(next % BETWEEN_LOOKS == 0 && next > part.start && until.is_over()) {
                        vcpu.access(Ipa::new(ipa[next]), access.0)
                            .map_err(|refused| (next, refused))?;
                        next += 1;
                    }
                    faults += vcpu.counters().total();
                    Ok(next)
                })
            })?
            .map_err(|(index, refused)| error::with_index(py, error::access(py, refused), index))
        })?;
        Ok(faults)
    }

    /// What the MMU answers to an access at this moment; as `Stage2.translate`.
    ///
    /// Parameters
    /// ----------
    /// ipa : int
    ///     Any byte address.
    /// access : Access or str
    ///     ``"r"``, ``"w"`` or ``"x"``.
    ///
    /// Returns
    /// -------
    /// Translation
    ///
    /// Raises
    /// ------
    /// TranslationFault, AccessFlagFault, PermissionFault
    ///     The fault that the guest takes: `handle` handles it.
    ///
    /// Examples
    /// --------
    /// >>> import s2pt
    /// >>> vm = s2pt.Vm(memory="64MiB")
    /// >>> vm.translate(0x4000_0000)
    /// Traceback (most recent call last):
    ///     ...
    /// s2pt.errors.TranslationFault: IPA 0x40000000: no translation at level 1
    #[pyo3(signature = (ipa, access = AccessArg::READ), text_signature = "($self, ipa, access='r')")]
    fn translate<'py>(&self, py: Python<'py>, ipa: IpaArg, access: AccessArg) -> PyResult<Bound<'py, PyAny>> {
        self.vm.check(py)?;
        match self.vm.vcpu(|vcpu| vcpu.translate(ipa.0, access.0)) {
            Ok(hit) => types::translation(py, &hit),
            Err(refused) => Err(error::fault(py, &refused)),
        }
    }

    /// Handle one fault: map what the slot has there, or say who else has to act. The guest then tries again.
    ///
    /// Parameters
    /// ----------
    /// ipa : int
    ///     The faulting address, any byte.
    /// access : Access or str
    ///     What the guest did.
    /// kind : str
    ///     What the syndrome says: ``"translation"``, ``"permission"`` or ``"access-flag"``.
    /// level : int, optional
    ///     The level that the syndrome names; None: the one at which a walk ends now.
    /// s1ptw : bool
    ///     Whether the access was a stage-1 walk's own.
    ///
    /// Returns
    /// -------
    /// tuple of str
    ///     ``"handled"`` with how (``"mapped"``, ``"collapsed"``, ``"relaxed"``, ``"split"``, ``"marked-young"``);
    ///     ``"again"`` with why (``"invalidated"``, ``"slots-changed"``, ``"peer"``): nothing was done; or ``"exit"`` with
    ///     the reason (``"mmio"``, ``"read-only"``, ``"fetch"``, ``"address-size"``).
    ///
    /// Raises
    /// ------
    /// AddressError, LevelError
    ///     An argument is wrong.
    /// OutOfFramesError
    ///     Too few frames for the tables; nothing has changed.
    ///
    /// Notes
    /// -----
    /// It waits for no other vCPU and not for the host, except, under ``"serial"`` and ``"parallel"``, for the lock.
    /// Maintenance: a TLBI on the calling core where a leaf was relaxed, break-before-make with a broadcast TLBI where
    /// a block was split or made; cache operations on what is new in the guest, without FWB.
    ///
    /// Examples
    /// --------
    /// >>> import s2pt
    /// >>> vm = s2pt.Vm(memory="64MiB")
    /// >>> vm.handle_fault(0x4000_1234, "w")
    /// ('handled', 'mapped')
    /// >>> vm.handle_fault(0x900_0000)
    /// ('exit', 'mmio')
    #[pyo3(signature = (
        ipa, access = AccessArg::READ, *, kind = FaultKindArg(FaultKind::Translation), level = None,
        s1ptw = false
    ), text_signature = "($self, ipa, access='r', *, kind='translation', level=None, s1ptw=False)")]
    fn handle_fault<'py>(
        &self,
        py: Python<'py>,
        ipa: IpaArg,
        access: AccessArg,
        kind: FaultKindArg,
        level: Option<LevelArg>,
        s1ptw: bool,
    ) -> PyResult<Bound<'py, PyTuple>> {
        self.handle(py, |vcpu| {
            let level = match level {
                Some(level) => level.0,
                None => vcpu.handle().lookup(ipa.0)?.level,
            };
            Ok(Fault {
                ipa: ipa.0,
                access: access.0,
                kind: kind.0,
                level,
                s1ptw,
            })
        })
    }

    /// Handle the fault that three registers report; as `handle_fault`.
    ///
    /// Parameters
    /// ----------
    /// esr, far, hpfar : int
    ///     ESR_EL2, FAR_EL2 and HPFAR_EL2.
    ///
    /// Raises
    /// ------
    /// S2ptError
    ///     The registers report no stage-2 fault of a guest.
    ///
    /// Examples
    /// --------
    /// >>> import s2pt
    /// >>> vm = s2pt.Vm(memory="64MiB")
    /// >>> vm.handle_syndrome(esr=0x9200_0046, far=0x234, hpfar=0x40_0010)  # a write, translation fault at level 2
    /// ('handled', 'mapped')
    /// >>> hex(vm.translate(0x4000_1234).pa)
    /// '0x40001234'
    fn handle_syndrome<'py>(
        &self,
        py: Python<'py>,
        esr: Number,
        far: Number,
        hpfar: Number,
    ) -> PyResult<Bound<'py, PyTuple>> {
        match Fault::from_registers(esr.0, far.0, hpfar.0) {
            Ok(fault) => self.handle(py, |_| Ok(fault)),
            Err(refused) => Err(error::base(py, refused.to_string())),
        }
    }
}

impl PyVm {
    /// Handles the fault that `fault` tells a vCPU of the calling thread.
    fn handle<'py>(
        &self,
        py: Python<'py>,
        fault: impl FnOnce(&Vcpu<'_, Arena, Sink>) -> Result<Fault, table::Error> + Send,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let handle = |vcpu: &mut Vcpu<'_, Arena, Sink>| -> Result<Outcome, vm::Error> {
            let fault = fault(vcpu)?;
            vcpu.handle_fault(&fault)
        };
        let outcome = self.briefly(py, 0, handle)?;
        types::outcome(py, outcome.map_err(|refused| error::vm(py, refused))?)
    }
}
