//! Python arguments to plain values: addresses, sizes, levels, permissions and choices.
//!
//! An address is anything with `__index__` (so numpy integers count); a `bool` is refused although it is an `int`, a
//! `float` because it cannot carry 64 bits, and a negative number because no address is. A size may also be text
//! such as `"2MiB"`; that one is read by `s2pt.types.parse_size`, so that there is one grammar. Messages name the
//! argument in the words of the Arm manual and the value in hex.

mod number;
mod words;

use number::integer;
pub use number::{short, unsigned};
pub use words::{ACCESSES, MEM_TYPES, choice};
use words::{BACKINGS, DIALECTS, EXISTING, FAULTS, LOG_MODES, ORDERS};

use core::time::Duration;

use pyo3::exceptions::{PyAttributeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyString;

use super::error;
use super::exit::Ask;
use super::sink::Watch;
use crate::arch::{AccessKind, BlockRule, Dialect, FaultKind, Granule, Ipa, Level, MemType, Pa, Prot};
use crate::table::{Existing, Recording, Semantics, Stall, StallKind, WalkFlags};
use crate::vm::replay::{Order, Sizes};
use crate::vm::workload::{LogKind, SlotTest, Supply};
use crate::vm::{Backing, Cost, Costs, DirtyLogMode, Policy};

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

/// How a stalled TLBI waits.
#[derive(Clone, Copy)]
pub struct StallHow(pub StallKind);

/// How long a TLBI stalls.
#[derive(Clone, Copy)]
pub struct StallFor(Duration);

/// What one step costs: an `s2pt.Cost`.
#[derive(Clone, Copy)]
pub struct CostArg(pub Cost);

/// What steps cost: an `s2pt.Costs`.
#[derive(Clone, Copy)]
pub struct CostsArg(pub Costs);

impl CostsArg {
    /// The costs, with the TLBI's said another way.
    pub fn with(costs: Option<Self>, py: Python<'_>, stall: StallFor, how: StallHow) -> PyResult<Costs> {
        let mut costs = costs.map_or_else(Costs::default, |costs| costs.0);
        if !stall.0.is_zero() {
            if !costs.tlbi.is_none() {
                let message = "stall_tlbi_ns and costs both say what a TLBI costs";
                return Err(error::option(py, String::from(message)));
            }
            costs.tlbi = Cost::new(stall.0, how.0);
        }
        Ok(costs)
    }
}

impl StallFor {
    /// Not at all.
    pub const NONE: Self = Self(Duration::ZERO);

    /// Nobody can interrupt a TLBI: no longer than one bears to wait for Ctrl-C.
    const LONGEST: Duration = Duration::from_secs(1);

    /// The stall, if there is one.
    pub fn stall(self, how: StallHow) -> Option<Stall> {
        (!self.0.is_zero()).then(|| Stall::new(self.0, how.0))
    }
}

/// Whose invalid entries.
#[derive(Clone, Copy)]
pub struct DialectArg(pub Dialect);

/// An `s2pt.Policy` or its text.
#[derive(Clone, Copy)]
pub struct PolicyArg(pub Policy);

/// An `s2pt.Backing` or its text.
#[derive(Clone, Copy)]
pub struct BackingArg(pub Backing);

/// In which order a trace is replayed.
#[derive(Clone, Copy)]
pub struct OrderArg(pub Order);

/// Who decides how large a mapping of a replay is.
#[derive(Clone, Copy)]
pub struct SizesArg(pub Sizes);

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

/// The id of a memory slot.
#[derive(Clone, Copy)]
pub struct SlotId(pub u32);

/// Why an access faulted.
#[derive(Clone, Copy)]
pub struct FaultKindArg(pub FaultKind);

/// How a dirty log protects.
#[derive(Clone, Copy)]
pub struct LogModeArg(pub DirtyLogMode);

/// A way to log writes.
#[derive(Clone, Copy)]
pub struct LogKindArg(pub LogKind);

/// What is done to memory slots.
#[derive(Clone, Copy)]
pub struct SlotTestArg(pub SlotTest);

/// Who has the pages that a guest misses.
#[derive(Clone, Copy)]
pub struct SupplyArg(pub Supply);

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
impl LogModeArg {
    /// Every page counts as dirty at first.
    pub const INITIALLY_SET: Self = Self(DirtyLogMode::ManualInitiallySet);
}

impl LogKindArg {
    /// A bitmap, and blocks split by the writes.
    pub const LAZY: Self = Self(LogKind::Lazy);
}

impl PaArg {
    /// The start of the PA space.
    pub const ZERO: Self = Self(Pa::new(0));
}

impl StallHow {
    /// The thread gives up its core.
    pub const SLEEP: Self = Self(StallKind::Sleep);
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
    StallFor = stall;
    CostArg = |obj| cost("a cost", obj);
    CostsArg = costs;
    StallHow = |obj| choice(obj, "stall_how", &[("sleep", StallKind::Sleep), ("spin", StallKind::Spin)]);
    PolicyArg = |obj| choice(obj, "policy", &Policy::ALL.map(|policy| (policy.name(), policy)));
    BackingArg = |obj| choice(obj, "backing", BACKINGS);
    OrderArg = |obj| choice(obj, "order", ORDERS);
    SizesArg = |obj| choice(obj, "sizes", &[("recorded", Sizes::Recorded), ("trace", Sizes::Trace)]);
    SlotId = slot_id;
    FaultKindArg = |obj| choice(obj, "kind", FAULTS);
    LogModeArg = |obj| choice(obj, "mode", LOG_MODES);
    LogKindArg = |obj| choice(obj, "log", &LogKind::ALL.map(|(kind, name)| (name, kind)));
    SlotTestArg = |obj| choice(obj, "test", &SlotTest::ALL.map(|(test, name)| (name, test)));
    SupplyArg = |obj| choice(obj, "supply", &Supply::ALL.map(|(supply, name)| (name, supply)));
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

fn stall(obj: &Bound<'_, PyAny>) -> PyResult<Duration> {
    at_most_a_second("stall_tlbi_ns", obj)
}

fn at_most_a_second(what: &str, obj: &Bound<'_, PyAny>) -> PyResult<Duration> {
    let stall = Duration::from_nanos(unsigned(what, obj)?);
    if stall > StallFor::LONGEST {
        let (value, most) = (stall.as_nanos(), StallFor::LONGEST.as_nanos());
        return Err(error::option(
            obj.py(),
            format!("{what} {value:#x} is beyond {most:#x}, one second"),
        ));
    }
    Ok(stall)
}

fn costs(obj: &Bound<'_, PyAny>) -> PyResult<Costs> {
    let part = |name: &str| cost(name, &attribute(obj, name)?);
    Ok(Costs {
        tlbi: part("tlbi")?,
        exit: part("exit")?,
        copy: part("copy")?,
        cache: part("cache")?,
        allocation: part("allocation")?,
    })
}

fn cost(what: &str, obj: &Bound<'_, PyAny>) -> PyResult<Cost> {
    let duration = at_most_a_second(what, &attribute(obj, "ns")?)?;
    let how: StallHow = attribute(obj, "how")?.extract()?;
    Ok(Cost::new(duration, how.0))
}

/// An attribute of what should be an `s2pt.Costs` or an `s2pt.Cost`.
fn attribute<'py>(obj: &Bound<'py, PyAny>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    obj.getattr(name).map_err(|e| {
        if e.is_instance_of::<PyAttributeError>(obj.py()) {
            PyTypeError::new_err("costs must be an s2pt.Costs")
        } else {
            e
        }
    })
}

fn slot_id(obj: &Bound<'_, PyAny>) -> PyResult<u32> {
    let id = unsigned("slot", obj)?;
    u32::try_from(id).map_err(|_| error::option(obj.py(), format!("slot {id:#x} is beyond 0xffffffff")))
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
