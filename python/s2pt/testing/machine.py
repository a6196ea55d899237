"""A state machine that holds an implementation against the model, one random call after the other.

Both get the same call. They must give the same result or the same exception, and afterwards the same answers to every
question about the part of the table that the call was about: leaves, entries, translations at its borders. Frames in
use and statistics are compared after every step, all leaves at the end. Hypothesis chooses the calls, and shortens a
failing run to the few that matter.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from hypothesis.strategies import SearchStrategy

from s2pt.errors import Again, ConflictError, Fault, NotMappedError, OutOfFramesError, S2ptError
from s2pt.model import ModelStage2
from s2pt.testing import strategies
from s2pt.testing.adapter import Adapter, Call, Factory, TableConfig
from s2pt.types import Access

__all__ = ["Stage2Machine", "make_machine", "outcome"]


_FEW, _MANY = 600, 3000


def outcome(adapter: Adapter, call: Call) -> tuple[Any, ...]:
    """Make a call and return what can be compared of it: the result, or the exception.

    Errors that speak of a place in the table must agree on IPA and level, and an out-of-frames error on the number of
    frames needed; of a refused argument only the class of the exception counts.

    Examples
    --------
    >>> outcome(ModelStage2(), Call("unmap", 0, 4096))
    ('returned', 0)
    >>> outcome(ModelStage2(), Call("unmap", 0, 4097))
    ('raised', 'AlignmentError')
    >>> outcome(ModelStage2(), Call("translate", 0x1000, "r"))
    ('raised', 'TranslationFault', '0x1000', 1)
    """
    try:
        return "returned", call.on(adapter)
    except (NotMappedError, ConflictError, Again, Fault) as error:
        return "raised", type(error).__name__, hex(-1 if error.ipa is None else error.ipa), error.level
    except OutOfFramesError as error:
        return "raised", type(error).__name__, error.needed
    except S2ptError as error:
        return "raised", type(error).__name__


@st.composite
def _beginnings(
    draw: st.DrawFn, tables: SearchStrategy[TableConfig], skip: frozenset[str]
) -> tuple[TableConfig, list[str], list[Call]]:
    """Draw a table, the operations of the run, and what is mapped first, so that they have something to work on.

    Half of the runs use only some operations: what takes many steps of the same few to go wrong is then found sooner.
    """
    config = draw(tables)
    offered = [name for name in strategies.OPERATIONS if name not in skip]
    some = st.lists(st.sampled_from(offered), min_size=2, max_size=5, unique=True)
    return (
        config,
        draw(st.one_of(st.just(offered), some)),
        draw(st.lists(strategies.maps(config), min_size=1, max_size=4)),
    )


_RARE = ("refusals", "refusals", "translate", "fail_allocation")


_FAILING = (0, 0, 1, 2, 3, 600)
_MACHINE: SearchStrategy[Stage2Machine] = st.runner()


@st.composite
def _steps(draw: st.DrawFn) -> Call:
    """Draw the next call of a run: mostly its operations, often where it was busy before."""
    machine = draw(_MACHINE)
    name = strategies.pick(draw, machine.names)
    if name == "translate":
        return draw(machine.translations)
    if name == "refusals":
        return draw(machine.refusals)
    if name == "fail_allocation":
        return Call(name, strategies.pick(draw, _FAILING))
    return strategies.call(draw, machine.config, name, tuple(machine.recent))


def _names(operations: list[str], skip: frozenset[str]) -> list[str]:
    """Say what is called, as often as it is there: the rare calls come up in every run, one step in six is theirs."""
    rare = [name for name in _RARE if name not in skip]
    return operations * (5 * len(rare)) + rare * len(operations) or operations


class Stage2Machine(RuleBasedStateMachine):
    """Compare an implementation with `ModelStage2`; `make_machine` makes a subclass for one.

    Attributes
    ----------
    factory : callable
        Makes the table under test from a `TableConfig`.
    tables : SearchStrategy
        Where the configurations come from.
    skip : frozenset of str
        What the implementation does not offer; see `make_machine`.
    """

    factory: Factory
    tables: SearchStrategy[TableConfig]
    skip: frozenset[str] = frozenset()

    agrees = False
    config: TableConfig
    model: ModelStage2
    adapter: Adapter

    @initialize(beginning=st.runner().flatmap(lambda machine: _beginnings(machine.tables, machine.skip)))
    def create(self, beginning: tuple[TableConfig, list[str], list[Call]]) -> None:
        """Make both tables and map something."""
        self.config, operations, maps = beginning
        self.names = _names(operations, self.skip)
        self.translations, self.refusals = strategies.translations(self.config), strategies.refusals(self.config)
        self.recent: deque[strategies.Range] = deque(maxlen=6)
        self.operated = 0
        self.model = ModelStage2(**self.config.keywords())
        self.adapter = type(self).factory(self.config)
        if "vtcr" not in self.skip:
            assert hex(self.adapter.vtcr) == hex(self.model.vtcr), self.config
        for call in maps:
            self._operate(call)
        self.agrees = True

    @rule(call=_steps())
    def step(self, call: Call) -> None:
        """Make one call on both, and compare."""
        self.agrees = False
        if call.name in strategies.OPERATIONS and call.name not in self.skip:
            self._operate(call)
        else:
            self._compare(call)
        self.agrees = True

    # --- comparisons ---

    def _compare(self, call: Call) -> tuple[Any, ...]:
        if call.name in self.skip or ("over_tables" in self.skip and ("over_tables", True) in call.keywords):
            return ("skipped",)
        expected, actual = outcome(self.model, call), outcome(self.adapter, call)
        assert actual == expected, f"{call}\n  table: {actual}\n  model: {expected}"
        return expected

    def _operate(self, call: Call) -> None:
        # A frame that waits for its last reader is in use; with a quota that must not decide an operation.
        if self.config.frames is not None and "frames" not in self.skip:
            self.adapter.drain()
        result, *_ = self._compare(call)
        low, size = call.args[:2]
        if result == "returned":
            self.recent.append(strategies.Range(low, size))
        if low >= 0 and size > 0 and low + size <= 1 << self.config.ipa_bits:
            self._compare_range(low, low + size)

    def _compare_range(self, low: int, high: int) -> None:
        """Compare leaves up to a block around the range, and what is at its borders."""
        limit, page, margin = 1 << self.config.ipa_bits, self.config.granule, self.model.geometry.size(2)
        # Comparing thousands of leaves takes longer than all else: large trees less often, the largest at the end only.
        leaves = sum(self.model.stats().leaves.values())
        if leaves <= _FEW or (leaves <= _MANY and self.operated % 4 == 0):
            first, last = max(low // page * page - margin, 0), min(-(-high // page) * page + margin, limit)
            if first < last:
                self._compare_leaves(first, last)
        for ipa in (low - 1, low, high - 1, high):
            if 0 <= ipa < 1 << 64:
                self._compare(Call("lookup", ipa))
                for access in Access:
                    self._compare(Call("translate", ipa, access))

    def _compare_leaves(self, low: int, high: int) -> None:
        if "leaves" in self.skip:
            return
        expected, actual = list(self.model.leaves(low, high - low)), list(self.adapter.leaves(low, high - low))
        if actual != expected:
            index = next((i for i, (a, e) in enumerate(zip(actual, expected, strict=False)) if a != e), None)
            index = min(len(actual), len(expected)) if index is None else index
            raise AssertionError(
                f"leaves of {low:#x}..{high:#x} differ at number {index}\n"
                f"  table: {actual[index : index + 1]} of {len(actual)}\n"
                f"  model: {expected[index : index + 1]} of {len(expected)}"
            )

    @invariant()
    def same_frames(self) -> None:
        """Compare the frames in use, once retired ones are free, and the statistics."""
        if "frames" not in self.skip:
            self.adapter.drain()
            assert self.adapter.frames_in_use == self.model.frames_in_use
        if "stats" not in self.skip:
            assert self.adapter.stats() == self.model.stats()

    def teardown(self) -> None:
        """Compare all leaves, unless a step has failed already, and let go of the tables."""
        try:
            if self.agrees:
                self._compare_leaves(0, 1 << self.config.ipa_bits)
        finally:
            # Hypothesis keeps the machine in a circle: until the collector comes, tables of many runs would pile up.
            vars(self).pop("model", None)
            vars(self).pop("adapter", None)


def make_machine(
    factory: Factory,
    tables: SearchStrategy[TableConfig] | None = None,
    skip: frozenset[str] | set[str] = frozenset(),
) -> type[Stage2Machine]:
    """Make a state machine for an implementation.

    Parameters
    ----------
    factory : callable
        Takes a `TableConfig` and returns the table under test.
    tables : SearchStrategy, optional
        Where the configurations come from; `strategies.configs()` unless told.
    skip : set of str
        What the implementation does not offer and is not asked for: names of methods, and ``"over_tables"`` (the
        keyword of `map`), ``"frames"`` (it cannot count them), ``"vtcr"``, ``"stats"``, ``"refusals"`` (it does not
        check its arguments).

    Returns
    -------
    type
        A subclass of `Stage2Machine`: its ``TestCase`` is a `unittest.TestCase` that pytest finds, and
        `hypothesis.stateful.run_state_machine_as_test` runs it.

    Examples
    --------
    >>> from hypothesis import settings
    >>> from hypothesis.stateful import run_state_machine_as_test
    >>> from s2pt.testing import ModelAdapter
    >>> machine = make_machine(ModelAdapter, strategies.configs(granules=(4096,)))
    >>> run_state_machine_as_test(machine, settings=settings(max_examples=3, stateful_step_count=5, deadline=None))
    """
    members = {"factory": staticmethod(factory), "skip": frozenset(skip), "__module__": __name__}
    members["tables"] = strategies.configs() if tables is None else tables
    return type("Stage2Machine", (Stage2Machine,), members)
