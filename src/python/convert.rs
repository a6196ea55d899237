//! Python arguments to plain values: addresses, sizes, levels, permissions and choices.
//!
//! An address is anything with `__index__` (so numpy integers count); a `bool` is refused although it is an `int`, a
//! `float` because it cannot carry 64 bits, and a negative number because no address is. A size may also be text
//! such as `"2MiB"`; that one is read by `s2pt.types.parse_size`, so that there is one grammar. Messages name the
//! argument in the words of the Arm manual and the value in hex.

mod cost;
mod number;
mod vm;
mod words;

pub use cost::{CostArg, CostsArg, StallFor, StallHow};
use number::integer;
pub use number::{short, unsigned};
pub use vm::{
    BackingArg, FaultKindArg, LogKindArg, LogModeArg, OrderArg, PolicyArg, SizesArg, SlotId, SlotTestArg, SupplyArg,
};
pub use words::{ACCESSES, MEM_TYPES, choice};
use words::{DIALECTS, EXISTING};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyString;

use super::error;
use super::exit::Ask;
use super::sink::Watch;
use crate::arch::{AccessKind, BlockRule, Dialect, Granule, Ipa, Level, MemType, Pa, Prot};
use crate::table::{Existing, Recording, Semantics, WalkFlags};

/// Implements `FromPyObject` by a function of the object.
macro_rules! extract {
    ($($arg:ident = $function:expr;)*) => {$(
        impl<'py> FromPyObject<'_, 'py> for $arg {
            type Error = PyErr;

            fn extract(obj: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
                $function(&obj).map(Self)
            }
        }
    )*};
}

use extract;

/// An intermediate physical address given by the caller.
#[derive(Clone, Copy)]
pub struct IpaArg(pub Ipa);

/// A physical address given by the caller.
#[derive(Clone, Copy)]
pub struct PaArg(pub Pa);

/// A number of bytes given by the caller, as an integer or as text with a unit.
#[derive(Clone, Copy)]
pub struct SizeArg(pub u64);

/// A level of the table, as Arm counts them (-1..=3).
#[derive(Clone, Copy)]
pub struct LevelArg(pub Level);

/// A granule, as its size.
#[derive(Clone, Copy)]
pub struct GranuleArg(pub Granule);

/// Permissions: an `s2pt.Prot`, or the same bits as an integer.
#[derive(Clone, Copy)]
pub struct ProtArg(pub Prot);

/// An `s2pt.MemType` or its text.
#[derive(Clone, Copy)]
pub struct MemTypeArg(pub MemType);

/// An `s2pt.Access` or its text.
#[derive(Clone, Copy)]
pub struct AccessArg(pub AccessKind);

/// An `s2pt.Existing` or its text.
#[derive(Clone, Copy)]
pub struct ExistingArg(pub Existing);

/// The four software bits of a leaf.
#[derive(Clone, Copy)]
pub struct SoftwareArg(pub u8);

/// A plain unsigned number: a count, a register, an entry.
#[derive(Clone, Copy)]
pub struct Number(pub u64);

/// Bits of the input address.
#[derive(Clone, Copy)]
pub struct IpaBits(pub u8);

/// Bits of the output address.
#[derive(Clone, Copy)]
pub struct PaBits(pub u8);

/// A VMID.
#[derive(Clone, Copy)]
pub struct Vmid(pub u16);

/// An `s2pt.Blocks` or its text.
#[derive(Clone, Copy)]
pub struct BlocksArg(pub BlockRule);

/// An `s2pt.Semantics` or its text.
#[derive(Clone, Copy)]
pub struct SemanticsArg(pub Semantics);

/// `s2pt.WalkFlags`, or the same bits as an integer.
#[derive(Clone, Copy)]
pub struct FlagsArg(pub WalkFlags);

/// Whose invalid entries.
#[derive(Clone, Copy)]
pub struct DialectArg(pub Dialect);

/// What to do about what cannot be read.
#[derive(Clone, Copy)]
pub enum OnErrors {
    /// Raise the first one.
    Raise,
    /// Go on behind it.
    Skip,
}

impl<'py> FromPyObject<'_, 'py> for OnErrors {
    type Error = PyErr;

    fn extract(obj: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        choice(&obj, "errors", &[("raise", Self::Raise), ("skip", Self::Skip)])
    }
}

/// What is kept of a table's maintenance.
#[derive(Clone, Copy)]
pub struct WatchArg(bool);

impl WatchArg {
    /// Counts.
    pub const COUNTING: Self = Self(false);

    /// A fresh keeper.
    pub fn watch(self) -> Watch {
        if self.0 {
            Watch::Recording(Recording::new(RECORDED).with_contents())
        } else {
            Watch::Counting(Box::default())
        }
    }
}

/// How many events of each thread a recording keeps.
const RECORDED: usize = 1 << 16;

// What Python leaves out.
impl PaArg {
    /// The start of the PA space.
    pub const ZERO: Self = Self(Pa::new(0));
}

impl IpaArg {
    /// The start of the IPA space.
    pub const ZERO: Self = Self(Ipa::new(0));
}

impl LevelArg {
    /// The last level.
    pub const PAGES: Self = Self(Level::L3);
}

impl ProtArg {
    /// Read and write.
    pub const RW: Self = Self(Prot::RW);
}

impl MemTypeArg {
    /// Normal write-back memory.
    pub const NORMAL: Self = Self(MemType::Normal);
}

impl AccessArg {
    /// A data read.
    pub const READ: Self = Self(AccessKind::Read);
}

impl ExistingArg {
    /// What is mapped makes way.
    pub const REPLACE: Self = Self(Existing::Replace);
}

impl SemanticsArg {
    /// An operation changes its range and nothing else.
    pub const EXACT: Self = Self(Semantics::Exact);
}

impl FlagsArg {
    /// None.
    pub const NONE: Self = Self(WalkFlags::empty());
}

impl SoftwareArg {
    /// All clear.
    pub const NONE: Self = Self(0);
}

extract! {
    IpaArg = |obj| unsigned("IPA", obj).map(Ipa::new);
    PaArg = |obj| unsigned("PA", obj).map(Pa::new);
    SizeArg = size;
    LevelArg = level;
    GranuleArg = granule;
    ProtArg = prot;
    MemTypeArg = |obj| choice(obj, "memtype", MEM_TYPES);
    AccessArg = |obj| choice(obj, "access", ACCESSES);
    ExistingArg = |obj| choice(obj, "existing", EXISTING);
    SoftwareArg = software;
    Number = |obj| unsigned("value", obj);
    IpaBits = |obj| bits("ipa_bits", obj);
    PaBits = |obj| bits("pa_bits", obj);
    Vmid = vmid;
    BlocksArg = |obj| choice(obj, "blocks", &[("arch", BlockRule::Architecture), ("kvm", BlockRule::Kvm)]);
    SemanticsArg = |obj| choice(obj, "semantics", &[("exact", Semantics::Exact), ("kvm", Semantics::Kvm)]);
    FlagsArg = flags;
    WatchArg = |obj| choice(obj, "sink", &[("counting", false), ("recording", true)]);
    DialectArg = |obj| choice(obj, "dialect", DIALECTS);
}

fn size(obj: &Bound<'_, PyAny>) -> PyResult<u64> {
    static PARSE_SIZE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    if !obj.is_instance_of::<PyString>() {
        return unsigned("size", obj);
    }
    let py = obj.py();
    PARSE_SIZE
        .import(py, "s2pt.types", "parse_size")?
        .ask((obj,))?
        .extract()
}

fn level(obj: &Bound<'_, PyAny>) -> PyResult<Level> {
    let number = integer("level", obj)?;
    let number = number
        .extract::<i64>()
        .ok()
        .and_then(|number| i8::try_from(number).ok());
    number
        .and_then(Level::new)
        .ok_or_else(|| error::level(obj.py(), format!("level {} is not one of -1..3", short(obj))))
}

fn granule(obj: &Bound<'_, PyAny>) -> PyResult<Granule> {
    let bytes = size(obj)?;
    Granule::from_size(bytes).ok_or_else(|| {
        error::geometry(
            obj.py(),
            format!("granule {bytes:#x} is not one of 0x1000, 0x4000, 0x10000"),
        )
    })
}

fn bits(what: &str, obj: &Bound<'_, PyAny>) -> PyResult<u8> {
    let bits = unsigned(what, obj)?;
    u8::try_from(bits).map_err(|_| error::geometry(obj.py(), format!("{what} {bits} is not in 32..52")))
}

fn vmid(obj: &Bound<'_, PyAny>) -> PyResult<u16> {
    let vmid = unsigned("VMID", obj)?;
    u16::try_from(vmid).map_err(|_| error::geometry(obj.py(), format!("VMID {vmid:#x} does not fit in 16 bits")))
}

fn prot(obj: &Bound<'_, PyAny>) -> PyResult<Prot> {
    let bits = unsigned("prot", obj)?;
    match u8::try_from(bits) {
        // Bits 4 to 7 are for the core to refuse.
        Ok(bits) => Ok(Prot::from_bits_retain(bits)),
        Err(_) => Err(error::attributes(
            obj.py(),
            format!("permission bits {bits:#x} are beyond 0xf"),
        )),
    }
}

fn flags(obj: &Bound<'_, PyAny>) -> PyResult<WalkFlags> {
    let bits = unsigned("flags", obj)?;
    let known = u8::try_from(bits).ok().and_then(WalkFlags::from_bits);
    known.ok_or_else(|| {
        error::option(
            obj.py(),
            format!("walk flags {bits:#x} are not all of {:#x}", WalkFlags::all().bits()),
        )
    })
}

fn software(obj: &Bound<'_, PyAny>) -> PyResult<u8> {
    let bits = unsigned("software", obj)?;
    u8::try_from(bits).map_err(|_| error::attributes(obj.py(), format!("software bits {bits:#x} are beyond 0xf")))
}
