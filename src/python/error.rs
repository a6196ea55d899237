//! The one place where errors of the core become Python exceptions.
//!
//! The exception classes live in `s2pt/errors.py`, so that the pure-Python model raises the same ones; they are
//! imported once, when the extension module is. Each takes its message and, where they apply, `ipa` and `level`.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use super::exit::Ask;
use super::job::Failure;
use super::{explain, types};
use crate::arch::{Fault, FaultKind, GeometryError, Ipa, Level};
use crate::bench::BenchError;
use crate::image::{ImageError, PtdumpError};
use crate::memory::ArenaError;
use crate::table::Error;
use crate::vm::replay::ReplayError;
use crate::vm::workload::WorkloadError;
use crate::vm::{self, AccessError, BuildError};

/// Declares the table of exception classes, imported together.
macro_rules! classes {
    ($($field:ident => $name:literal),* $(,)?) => {
        struct Classes { $($field: Py<PyType>),* }

        impl Classes {
            fn import(py: Python<'_>) -> PyResult<Self> {
                let errors = py.import("s2pt.errors")?;
                Ok(Self { $($field: errors.getattr($name)?.cast_into::<PyType>()?.unbind()),* })
            }
        }
    };
}

classes! {
    address => "AddressError",
    address_size_fault => "AddressSizeFault",
    access_flag_fault => "AccessFlagFault",
    again => "Again",
    alignment => "AlignmentError",
    attributes => "AttributesError",
    base => "S2ptError",
    closed => "ClosedError",
    conflict => "ConflictError",
    fault => "Fault",
    geometry => "GeometryError",
    guest_exit => "GuestExit",
    image => "ImageError",
    level => "LevelError",
    option => "OptionError",
    trace => "TraceError",
    not_mapped => "NotMappedError",
    out_of_frames => "OutOfFramesError",
    permission_fault => "PermissionFault",
    ptdump => "PtdumpError",
    translation_fault => "TranslationFault",
}

static CLASSES: PyOnceLock<Classes> = PyOnceLock::new();

/// Imports the classes. Called when the module is initialised, so that a broken installation fails there.
pub fn initialise(py: Python<'_>) -> PyResult<()> {
    CLASSES.get_or_try_init(py, || Classes::import(py)).map(drop)
}

/// An exception of the class that `pick` names; the class's constructor takes `arguments`.
fn raise<'py, A>(py: Python<'py>, pick: impl FnOnce(&Classes) -> &Py<PyType>, arguments: A) -> PyErr
where
    A: pyo3::call::PyCallArgs<'py>,
{
    let made = CLASSES
        .get_or_try_init(py, || Classes::import(py))
        .and_then(|classes| pick(classes).bind(py).ask(arguments));
    match made {
        Ok(exception) => PyErr::from_value(exception),
        Err(failure) => failure,
    }
}

/// Declares functions that make an exception of one class from a message alone.
macro_rules! plain {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name(py: Python<'_>, message: String) -> PyErr {
            raise(py, |classes| &classes.$name, (message,))
        }
    )*};
}

plain! {
    /// An address that is negative or beyond a limit.
    address;
    /// Attributes that no descriptor can say.
    attributes;
    /// Anything without a class of its own.
    base;
    /// An object that was closed.
    closed;
    /// A shape that no table has.
    geometry;
    /// Bytes that are no table image.
    image;
    /// A level that is none.
    level;
    /// A misaligned address or size, or a size of zero.
    alignment;
    /// An option outside its range.
    option;
    /// A row of a trace that does not say what it should.
    trace;
}

/// The exception for an error of a table operation.
pub fn table(py: Python<'_>, error: Error) -> PyErr {
    let message = error.to_string();
    let at = |ipa: Ipa, level: Level| (message.clone(), ipa.get(), level.get());
    match error {
        Error::Alignment { .. } | Error::ZeroSize { .. } => raise(py, |classes| &classes.alignment, (message,)),
        Error::Address { what: "ipa", value, .. } => raise(py, |classes| &classes.address, (message, value)),
        Error::Address { .. } => raise(py, |classes| &classes.address, (message,)),
        Error::NotMapped { ipa, level } => raise(py, |classes| &classes.not_mapped, at(ipa, level)),
        Error::Conflict { ipa, level, .. } => raise(py, |classes| &classes.conflict, at(ipa, level)),
        Error::Again { ipa, level } => raise(py, |classes| &classes.again, at(ipa, level)),
        Error::OutOfFrames { needed, available } => raise(
            py,
            |classes| &classes.out_of_frames,
            (message, None::<u64>, None::<i8>, needed, available),
        ),
        Error::Attrs { ipa, .. } => raise(py, |classes| &classes.attributes, (message, ipa.get())),
        Error::Owner { ipa, .. } => raise(py, |classes| &classes.attributes, (message, ipa.get())),
        Error::Flags { .. } | Error::NoDirtyState => option(py, message),
        Error::Geometry(error) => shape(py, error),
        _ => raise(py, |classes| &classes.base, (message,)),
    }
}

/// The exception for a geometry that does not exist.
pub fn shape(py: Python<'_>, error: GeometryError) -> PyErr {
    geometry(py, error.to_string())
}

/// The exception for table memory that cannot be had.
pub fn arena(py: Python<'_>, error: ArenaError) -> PyErr {
    raise(py, |classes| &classes.base, (error.to_string(),))
}

/// The exception for a call on a VM.
pub fn vm(py: Python<'_>, error: vm::Error) -> PyErr {
    match error {
        vm::Error::Table(error) => table(py, error),
        vm::Error::SlotAlignment { .. } | vm::Error::SlotEmpty { .. } | vm::Error::ClearRange { .. } => {
            alignment(py, error.to_string())
        }
        vm::Error::SlotAddress { .. } => address(py, error.to_string()),
        vm::Error::SlotOverlap { other_ipa, .. } => {
            raise(py, |classes| &classes.conflict, (error.to_string(), other_ipa.get()))
        }
        vm::Error::BitmapLength { .. } => option(py, error.to_string()),
        _ => base(py, error.to_string()),
    }
}

/// The exception for a table in bytes that cannot be read.
pub fn dump(py: Python<'_>, error: &ImageError) -> PyErr {
    let message = error.to_string();
    match *error {
        ImageError::Missing { ipa, level, .. } | ImageError::Revisited { ipa, level, .. } => {
            raise(py, |classes| &classes.image, (message, ipa.get(), level.get()))
        }
        ImageError::Ipa { ipa, .. } => raise(py, |classes| &classes.address, (message, ipa.get())),
        _ => image(py, message),
    }
}

/// The exception for a text that cannot be read.
pub fn ptdump(py: Python<'_>, error: &PtdumpError) -> PyErr {
    let arguments = (error.to_string(), None::<u64>, None::<i8>, error.line());
    raise(py, |classes| &classes.ptdump, arguments)
}

/// The exception for a guest's access that does not come to an end.
pub fn access(py: Python<'_>, error: AccessError) -> PyErr {
    match error {
        AccessError::Exit { ipa, reason } => {
            let reason = types::exit(reason);
            let message = format!("access to {ipa} exits: {reason}");
            raise(py, |classes| &classes.guest_exit, (message, ipa.get(), reason))
        }
        AccessError::Fault(error) => vm(py, error),
    }
}

/// The exception, with the index of the element of an array that it speaks of.
pub fn with_index(py: Python<'_>, exception: PyErr, index: usize) -> PyErr {
    // Without the attribute the exception still says what happened.
    let _ = exception.value(py).setattr("index", index);
    exception
}

/// The exception for a VM that cannot be built.
pub fn build(py: Python<'_>, error: BuildError) -> PyErr {
    match error {
        BuildError::Geometry(error) => shape(py, error),
        BuildError::Arena(error) => arena(py, error),
        BuildError::Table(error) => table(py, error),
    }
}

/// The exception for a dirty-log run that was refused or ended early.
pub fn workload(py: Python<'_>, error: &WorkloadError) -> PyErr {
    match *error {
        WorkloadError::Option { .. }
        | WorkloadError::Size { .. }
        | WorkloadError::SlotTooSmall { .. }
        | WorkloadError::SlotsApart { .. }
        | WorkloadError::NoRoom { .. } => option(py, error.to_string()),
        WorkloadError::Alignment { .. } | WorkloadError::NoBlocks { .. } => alignment(py, error.to_string()),
        WorkloadError::Vm(error) => vm(py, error),
        _ => base(py, error.to_string()),
    }
}

/// The exception for a measurement of the budget table that was refused.
pub fn bench(py: Python<'_>, error: &BenchError) -> PyErr {
    match error {
        BenchError::Size { .. } | BenchError::Rounds { .. } | BenchError::NoRow { .. } => option(py, error.to_string()),
        _ => base(py, error.to_string()),
    }
}

/// The exception for a run that came to no result.
pub fn failure(py: Python<'_>, failure: &Failure) -> PyErr {
    match failure {
        Failure::Workload(error) => workload(py, error),
        Failure::Bench(error) => bench(py, error),
        Failure::Replay(ReplayError::Event { .. } | ReplayError::Syndrome { .. } | ReplayError::NoSizes { .. }) => {
            trace(py, failure.to_string())
        }
        Failure::Replay(_) | Failure::NoThread(_) | Failure::Panic(_) => base(py, failure.to_string()),
    }
}

/// The exception that stands for a stage-2 fault.
pub fn fault(py: Python<'_>, fault: &Fault) -> PyErr {
    let access = match types::access(py, fault.access) {
        Ok(access) => access,
        Err(failure) => return failure,
    };
    let (ipa, level) = (fault.ipa.get(), fault.level.get());
    let what = explain::fault(fault);
    fn class(classes: &Classes, kind: FaultKind) -> &Py<PyType> {
        match kind {
            FaultKind::Translation => &classes.translation_fault,
            FaultKind::AccessFlag => &classes.access_flag_fault,
            FaultKind::Permission => &classes.permission_fault,
            FaultKind::AddressSize => &classes.address_size_fault,
            _ => &classes.fault,
        }
    }
    raise(
        py,
        |classes| class(classes, fault.kind),
        (format!("IPA {ipa:#x}: {what}"), ipa, level, access),
    )
}
