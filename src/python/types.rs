//! Results of the core as the dataclasses and enumerations of `s2pt/types.py`, which are imported once.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString, PyTuple, PyType};

use super::convert::{ACCESSES, MEM_TYPES};
use super::exit::Ask;
use super::results::{Changed, Entry, Mapped, Mapping, Translation, object};
use crate::arch::{AccessKind, BlockRule, EntryKind, Geometry, Ipa, Level, MemType, Prot, Pte};
use crate::table;
use crate::vm::{ExitReason, Handled, Outcome, Retry};

/// Members of enumerations and classes of results.
struct Types {
    prots: Vec<Py<PyAny>>,
    mem_types: Vec<Py<PyAny>>,
    accesses: Vec<Py<PyAny>>,
    blocks: [Py<PyAny>; 2],
    kinds: Vec<Py<PyAny>>,
    outcomes: Vec<Py<PyTuple>>,
    stats: Py<PyType>,
    reclaim: Py<PyType>,
    geometry: Py<PyType>,
}

static TYPES: PyOnceLock<Types> = PyOnceLock::new();

impl Types {
    fn import(py: Python<'_>) -> PyResult<Self> {
        let module = py.import("s2pt.types")?;
        let class = |name: &str| -> PyResult<Py<PyType>> { Ok(module.getattr(name)?.cast_into::<PyType>()?.unbind()) };
        let members = |name: &str, values: &[&str]| -> PyResult<Vec<Py<PyAny>>> {
            let class = module.getattr(name)?;
            values.iter().map(|value| Ok(class.ask((*value,))?.unbind())).collect()
        };
        let prot = module.getattr("Prot")?;
        let texts = |table: &[(&'static str, MemType)]| table.iter().map(|(text, _)| *text).collect::<Vec<_>>();
        Ok(Self {
            prots: (0..16)
                .map(|bits| Ok(prot.ask((bits,))?.unbind()))
                .collect::<PyResult<_>>()?,
            mem_types: members("MemType", &texts(MEM_TYPES))?,
            accesses: members("Access", &ACCESSES.iter().map(|(text, _)| *text).collect::<Vec<_>>())?,
            blocks: [
                module.getattr("Blocks")?.ask(("arch",))?.unbind(),
                module.getattr("Blocks")?.ask(("kvm",))?.unbind(),
            ],
            kinds: KINDS
                .iter()
                .map(|word| Ok(PyString::intern(py, word).into_any().unbind()))
                .collect::<PyResult<_>>()?,
            outcomes: OUTCOMES
                .iter()
                .map(|words| Ok(words.into_pyobject(py)?.unbind()))
                .collect::<PyResult<_>>()?,
            stats: class("Stats")?,
            reclaim: class("ReclaimStats")?,
            geometry: class("Geometry")?,
        })
    }

    fn get(py: Python<'_>) -> PyResult<&Self> {
        TYPES.get_or_try_init(py, || Self::import(py))
    }
}

/// The `s2pt.Prot` of a permission.
pub fn prot(py: Python<'_>, prot: Prot) -> PyResult<Bound<'_, PyAny>> {
    let types = Types::get(py)?;
    Ok(types.prots[usize::from(prot.bits() & Prot::RWX.bits())]
        .bind(py)
        .clone())
}

/// The `s2pt.MemType` of a memory type; for an encoding without a name, text that gives its MemAttr value.
pub fn mem_type(py: Python<'_>, mem_type: MemType) -> PyResult<Bound<'_, PyAny>> {
    let types = Types::get(py)?;
    match MEM_TYPES.iter().position(|(_, known)| *known == mem_type) {
        Some(index) => Ok(types.mem_types[index].bind(py).clone()),
        None => Ok(mem_type.to_string().into_pyobject(py)?.into_any()),
    }
}

/// The `s2pt.Access` of an access.
pub fn access(py: Python<'_>, kind: AccessKind) -> PyResult<Bound<'_, PyAny>> {
    let types = Types::get(py)?;
    let index = ACCESSES.iter().position(|(_, known)| *known == kind).unwrap_or(0);
    Ok(types.accesses[index].bind(py).clone())
}

/// The `s2pt.Translation` of a translation.
pub fn translation<'py>(py: Python<'py>, hit: &table::Translation) -> PyResult<Bound<'py, PyAny>> {
    let result = Translation {
        pa: object(py, hit.pa.get())?,
        level: object(py, hit.level.get())?,
        prot: prot(py, hit.prot)?.unbind(),
        memtype: mem_type(py, hit.memtype)?.unbind(),
    };
    Ok(Bound::new(py, result)?.into_any())
}

/// The `s2pt.Mapping` of a leaf.
pub fn mapping<'py>(py: Python<'py>, leaf: &table::Mapping) -> PyResult<Bound<'py, PyAny>> {
    let attrs = &leaf.attrs;
    let result = Mapping {
        ipa: object(py, leaf.ipa.get())?,
        size: object(py, leaf.size)?,
        pa: object(py, leaf.pa.get())?,
        level: object(py, leaf.level.get())?,
        prot: prot(py, attrs.prot)?.unbind(),
        memtype: mem_type(py, attrs.memtype)?.unbind(),
        af: object(py, attrs.af)?,
        software: object(py, attrs.software)?,
        raw: object(py, leaf.raw.raw())?,
    };
    Ok(Bound::new(py, result)?.into_any())
}

/// The `s2pt.Mapped` of what a map did.
pub fn mapped<'py>(py: Python<'py>, done: &table::Mapped) -> PyResult<Bound<'py, PyAny>> {
    let result = Mapped {
        bytes: object(py, done.bytes)?,
        kept: object(py, done.kept)?,
    };
    Ok(Bound::new(py, result)?.into_any())
}

/// The `s2pt.Changed` of what a change of attributes did.
pub fn changed<'py>(py: Python<'py>, done: &table::Changed) -> PyResult<Bound<'py, PyAny>> {
    let result = Changed {
        leaves: object(py, done.leaves)?,
        bytes: object(py, done.bytes)?,
    };
    Ok(Bound::new(py, result)?.into_any())
}

/// The `s2pt.Entry` where a walk ended.
pub fn entry<'py>(py: Python<'py>, found: &table::Lookup) -> PyResult<Bound<'py, PyAny>> {
    entry_of(py, found.pte, found.level, found.base, found.pte.kind(found.level))
}

/// The `s2pt.Entry` of an entry given by its parts.
pub fn entry_of(py: Python<'_>, pte: Pte, level: Level, base: Ipa, what: EntryKind) -> PyResult<Bound<'_, PyAny>> {
    let types = Types::get(py)?;
    let result = Entry {
        raw: object(py, pte.raw())?,
        level: object(py, level.get())?,
        base: object(py, base.get())?,
        kind: types.kinds[place(what)].clone_ref(py),
    };
    Ok(Bound::new(py, result)?.into_any())
}

/// Words for the kinds of entries.
const KINDS: [&str; 7] = ["empty", "annotated", "locked", "frozen", "table", "leaf", "reserved"];

/// Place of a kind's word.
const fn place(kind: EntryKind) -> usize {
    match kind {
        EntryKind::Empty => 0,
        EntryKind::Annotated(_) => 1,
        EntryKind::Locked => 2,
        EntryKind::Frozen => 3,
        EntryKind::Table => 4,
        EntryKind::Leaf => 5,
        EntryKind::Reserved => 6,
    }
}

/// The word for a kind of entry.
pub const fn kind(kind: EntryKind) -> &'static str {
    KINDS[place(kind)]
}

/// The pair of words for what became of a fault, one of a few tuples that are made once.
pub fn outcome(py: Python<'_>, outcome: Outcome) -> PyResult<Bound<'_, PyTuple>> {
    let place = match outcome {
        Outcome::Handled(Handled::Mapped { .. }) => 0,
        Outcome::Handled(Handled::Collapsed { .. }) => 1,
        Outcome::Handled(Handled::Relaxed) => 2,
        Outcome::Handled(Handled::Split) => 3,
        Outcome::Handled(Handled::MarkedYoung) => 4,
        Outcome::Again(Retry::Invalidated) => 5,
        Outcome::Again(Retry::SlotsChanged) => 6,
        Outcome::Again(Retry::Peer) => 7,
        Outcome::Exit(reason) => return ("exit", exit(reason)).into_pyobject(py),
    };
    Ok(Types::get(py)?.outcomes[place].bind(py).clone())
}

/// Words for the outcomes after which the guest goes on.
const OUTCOMES: [(&str, &str); 8] = [
    ("handled", "mapped"),
    ("handled", "collapsed"),
    ("handled", "relaxed"),
    ("handled", "split"),
    ("handled", "marked-young"),
    ("again", "invalidated"),
    ("again", "slots-changed"),
    ("again", "peer"),
];

/// The word for why a guest exits.
pub const fn exit(reason: ExitReason) -> &'static str {
    match reason {
        ExitReason::Mmio => "mmio",
        ExitReason::ReadOnly => "read-only",
        ExitReason::Fetch => "fetch",
        ExitReason::AddressSize => "address-size",
        ExitReason::RingFull => "ring-full",
    }
}

/// The `s2pt.types.Geometry` of a shape.
pub fn geometry<'py>(py: Python<'py>, shape: &Geometry) -> PyResult<Bound<'py, PyAny>> {
    let types = Types::get(py)?;
    let blocks = match shape.block_rule() {
        BlockRule::Architecture => &types.blocks[0],
        BlockRule::Kvm => &types.blocks[1],
    };
    let arguments = (
        shape.granule().size(),
        shape.ipa_bits(),
        shape.pa_bits(),
        shape.start_level().get(),
        shape.root_frames(),
        shape.lpa2(),
        blocks.bind(py),
    );
    types.geometry.bind(py).ask(arguments)
}

/// The `s2pt.types.Stats` of a table's census.
pub fn stats<'py>(py: Python<'py>, shape: &Geometry, census: &table::Stats) -> PyResult<Bound<'py, PyAny>> {
    let (tables, leaves) = (PyDict::new(py), PyDict::new(py));
    let mut level = Some(shape.start_level());
    while let Some(here) = level {
        tables.set_item(here.get(), census.tables[slot(here)])?;
        leaves.set_item(here.get(), census.leaves[slot(here)])?;
        level = here.deeper();
    }
    let arguments = (
        tables,
        leaves,
        census.mapped_bytes,
        census.locked,
        census.frozen,
        census.annotated,
    );
    Types::get(py)?.stats.bind(py).ask(arguments)
}

/// The `s2pt.types.ReclaimStats` of a table.
pub fn reclaim<'py>(py: Python<'py>, stats: &table::ReclaimStats) -> PyResult<Bound<'py, PyAny>> {
    let arguments = (stats.retired, stats.freed, stats.pending, stats.peak, stats.overruns);
    Types::get(py)?.reclaim.bind(py).ask(arguments)
}

/// Place of a level in arrays by level -1..=3.
const fn slot(level: Level) -> usize {
    level.slot()
}
