"""Hostile calls: how one is made and what may come of it, and sequences of them."""

from __future__ import annotations

import collections
import copy
import dataclasses
import functools
import pickle
import random
import sys
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from hostile_receivers import BY_TARGET, PARAMETERS, RECEIVERS, class_of
from hostile_surface import Target, surface
from hostile_values import OWN, Arg, disguise, hostile, same

import s2pt
import s2pt.costs
import s2pt.machine
import s2pt.migrate
import s2pt.trace
import s2pt.workloads
from s2pt import _core, image
from s2pt.types import Blocks

# ------------------------------------------------------------------------------------------------- outcomes

OURS = "refused, an error of s2pt"
PYTHON = "refused, TypeError, ValueError or OverflowError"
RAISED = "what an argument raised"
ANSWERED = "answered"
OUTCOMES = (ANSWERED, OURS, PYTHON, RAISED)


class Defect(AssertionError):  # noqa: N818
    """A call that ended as no call may."""


def call(
    function: Callable[..., Any], args: list[Any], keywords: dict[str, Any], also: tuple[type, ...] = ()
) -> tuple[str, Any]:
    """Make a call; say what came of it, and the answer or the exception."""
    try:
        answer = function(*args, **keywords)
        if isinstance(answer, _core.LeafIterator | _core.ImageLeaves):
            answer = list(answer)
    except OWN as error:
        return RAISED, error
    except s2pt.S2ptError as error:
        if "internal error" in str(error):
            raise Defect(f"a thread panicked: {error}") from error
        return OURS, error
    except StopIteration:
        return ANSWERED, None
    except (TypeError, ValueError, OverflowError, *also) as error:
        return PYTHON, error
    return ANSWERED, answer


def normal(answer: Any) -> Any:
    """Give the answer, to be compared with another object's."""
    if isinstance(answer, np.ndarray):
        return answer.dtype.str, answer.shape, answer.tobytes()
    if isinstance(answer, image.Image):
        return answer.to_bytes()
    if isinstance(answer, tuple | list):
        return [normal(each) for each in answer]
    if isinstance(answer, s2pt.Stage2 | s2pt.Vm | _core.Vm | weakref.ref):
        return type(answer)
    text = repr(answer)
    return type(answer) if " object at 0x" in text else text


def state(thing: Any) -> Any:
    """All that a refused call must leave as it was."""
    if isinstance(thing, s2pt.Stage2):
        if thing.closed:
            return None
        thing.drain()
        return thing.entries_array().tobytes(), repr(thing.stats()), thing.frames_in_use
    if isinstance(thing, _core.Vm):
        thing.drain()
        return thing.leaves_array().tobytes(), repr(thing.stats()), thing.frames_in_use, thing._slots()
    if isinstance(thing, image.Image):
        return thing.vtcr, thing.vttbr
    return None


def sound(thing: Any) -> None:
    """Check that nothing is in between and that no frame is lost."""
    if not isinstance(thing, s2pt.Stage2 | _core.Vm) or getattr(thing, "closed", False):
        return
    thing.drain()
    stats = thing.stats()
    if (stats.locked, stats.frozen) != (0, 0) or thing.frames_in_use != sum(stats.tables.values()):
        raise Defect(f"{thing!r} is left with {stats!r} and {thing.frames_in_use} frames in use")


# ------------------------------------------------------------------------------------------------- of any object


def _universal(rng: random.Random, thing: Any, other: Any) -> tuple[str, str, Any]:
    """Something that is asked of objects of every class. Attributes are refused by AttributeError, as Python does."""
    asks: dict[str, Callable[[], Any]] = {
        "repr": lambda: repr(thing), "str": lambda: str(thing), "hash": lambda: hash(thing) and None,
        "eq": lambda: thing == other, "ne": lambda: thing != other, "lt": lambda: thing < other,
        "in": lambda: other in thing,
        "getitem": lambda: thing[other], "setitem": lambda: thing.__setitem__(0, other),
        "format": lambda: format(thing, "x"),
        "len": lambda: len(thing), "int": lambda: int(thing), "call": lambda: thing(other),
        "copy": lambda: copy.copy(thing),
        "deepcopy": lambda: copy.deepcopy(thing), "pickle": lambda: pickle.loads(pickle.dumps(thing)),
        "setattr": lambda: setattr(thing, "ipa", other), "new attribute": lambda: setattr(thing, "no_such", other),
        "delattr": lambda: delattr(thing, "ipa"), "getattr": lambda: thing.no_such, "dir": lambda: len(dir(thing)),
        "sizeof": lambda: sys.getsizeof(thing) and None, "weakref": lambda: weakref.ref(thing),
        "new": lambda: type(thing).__new__(type(thing)),
        "object.new": lambda: object.__new__(type(thing)), "init": lambda: type(thing).__init__(thing),
        "class": lambda: setattr(thing, "__class__", int), "type attribute": lambda: type(thing).no_such,
        "exit": lambda: type(thing).__exit__(thing, other, other, other), "array": lambda: np.asarray(thing) is None,
    }  # fmt: skip
    name = rng.choice(sorted(asks))
    # A dataclass that is initialised again is as new.
    moves = dataclasses.is_dataclass(thing) and name == "init"
    moves = moves or (isinstance(thing, _core.LeafIterator | _core.ImageLeaves) and name in ("in", "array"))
    if moves or (isinstance(thing, s2pt.Stage2) and name == "exit"):
        name = "repr"
    # KeyError and IndexError: what containers say. PicklingError: what pickle says.
    also = (AttributeError, LookupError, pickle.PicklingError)
    return (name, *call(asks[name], [], {}, also))


# ------------------------------------------------------------------------------------------------- sequences of calls


class Count:
    """Calls by target and outcome."""

    def __init__(self) -> None:
        self.of: collections.Counter[tuple[str, str]] = collections.Counter()

    def add(self, name: str, outcome: str) -> None:
        self.of[name, outcome] += 1

    def by_outcome(self) -> dict[str, int]:
        return {outcome: sum(n for (_, o), n in self.of.items() if o == outcome) for outcome in OUTCOMES}

    def table(self) -> str:
        """Write a row for each class and for the functions, a column for each outcome."""
        groups: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        for (name, outcome), number in self.of.items():
            groups[name.split(":")[0]][outcome] += number
        lines = [f"{'':<34}{'answered':>10}{'s2pt error':>12}{'TypeError..':>12}{'argument':>10}"]
        for group in sorted(groups):
            numbers = [groups[group][outcome] for outcome in OUTCOMES]
            lines.append(f"{group:<34}{numbers[0]:>10,}{numbers[1]:>12,}{numbers[2]:>12,}{numbers[3]:>10,}")
        numbers = list(self.by_outcome().values())
        lines.append(f"{'all':<34}{numbers[0]:>10,}{numbers[1]:>12,}{numbers[2]:>12,}{numbers[3]:>10,}")
        return "\n".join([*lines, f"{sum(numbers):,} calls"])


# Where any object with the value of an integer, a text or an array counts as that. Parts written in Python
# take theirs as they are given.
NATIVE = (
    "s2pt._core.",
    "s2pt.Stage2",
    "s2pt.vm.Vm.",
    "s2pt.image.Image",
    "s2pt._numbers.",
    "s2pt.Machine.",
    "s2pt.Cpu.",
)


# What takes seconds by default.
ALWAYS = {"s2pt.lab.predict.predict": ("policies", "passes", "draws")}


def arguments(rng: random.Random, target: Target, table: Any) -> tuple[list[Arg], dict[str, Arg]]:
    """Mostly right arguments of which a few are not; now and then too many, too few, or unknown ones."""
    positional: list[Arg] = []
    keywords: dict[str, Arg] = {}
    malice = rng.choice((0.0, 0.15, 0.3, 0.3, 0.6, 1.0))
    wanted = list(target.parameters)
    if len(wanted) > 4:  # options: a few at a time
        always = ALWAYS.get(target.name, ())
        wanted = [p for number, p in enumerate(wanted) if number < 3 or p in always or rng.randrange(4) == 0]
    by_position = True
    for number, name in enumerate(wanted):
        pick = BY_TARGET.get(f"{target.name}({name})", PARAMETERS[name])
        if rng.random() < malice:
            value = hostile(rng, table)
        else:
            may_hide = target.name.startswith(NATIVE) and name != "timeout_s" and rng.randrange(3) == 0
            value = disguise(rng, pick(rng)) if may_hide else same(pick(rng))
        by_position = by_position and name == target.parameters[number] and (number < 3 or name not in target.keywords)
        if name in target.keywords and (not by_position or rng.randrange(4) == 0):
            by_position = False
            keywords[name] = value
        else:
            positional.append(value)
    slip = rng.randrange(40)
    if slip == 0:
        positional.append(hostile(rng, table))
    elif slip == 1 and positional:
        positional.pop()
    elif slip == 2:
        keywords["no_such"] = hostile(rng, table)
    return positional, keywords


# Documented to have done a part of the work when they are refused: `index` of the exception says how much.
PARTIAL = ("map_many", "unmap_many", "touch")


class Sequence:
    """Calls on one object, and the same with undisguised arguments on its twin."""

    def __init__(self, rng: random.Random, group: str, targets: list[Target], count: Count) -> None:
        self.rng, self.group, self.targets, self.count = rng, group, targets, count
        make = rng.choice(RECEIVERS[group]) if group in RECEIVERS else None
        self.one, self.two = (make(), make()) if make else (None, None)
        self.said: list[str] = []

    def run(self, calls: int) -> None:
        try:
            for _ in range(calls):
                if self.one is not None and self.rng.randrange(10) == 0:
                    other = hostile(self.rng, None).value
                    self.said.append(f"universal {shown(same(other))}")
                    name, outcome, _ = _universal(self.rng, self.one, other)
                    self.said[-1] += f" {name}"
                    self.count.add(f"{self.group}:{name}", outcome)
                elif not self.once(self.rng.choice(self.targets)):
                    return
            sound(self.one)
            sound(self.two)
        except BaseException as error:
            # Hypothesis ends a try by exceptions of its own.
            panicked = type(error).__name__ == "PanicException"
            if not (panicked or isinstance(error, (Exception, *OWN))):
                raise
            raise Defect(f"{type(error).__name__}: {error}\nafter:\n" + "\n".join(self.said)) from error

    def once(self, target: Target) -> bool:
        """Make one call; whether the objects can be used for another."""
        positional, keywords = arguments(
            self.rng, target, self.one if isinstance(self.one, s2pt.Stage2 | _core.Vm) else None
        )
        values = [*positional, *keywords.values()]
        named = [f"{name}={shown(value)}" for name, value in keywords.items()]
        self.said.append(f"{target.name}({', '.join([*map(shown, positional), *named])})")
        acts = any(value.acts for value in values)
        before = state(self.one) if not acts else None
        also: tuple[type[Exception], ...] = ()
        if "path" in target.parameters or target.name == "s2pt.image.diff":
            also = (OSError,)
        elif target.attribute == "__getitem__" and not isinstance(self.one, s2pt.Stage2):
            also = (KeyError,)
        plain = [a.plain for a in positional], {k: a.plain for k, a in keywords.items()}
        outcome, answer = call(
            self.bind(target, self.one), [a.value for a in positional], {k: a.value for k, a in keywords.items()}, also
        )
        self.count.add(f"{self.group or 'functions'}:{target.attribute or target.name}", outcome)
        if target.attribute == "poke" and outcome == ANSWERED:
            return False  # past the protocol: whoever waits for what it wrote waits for ever
        if acts:
            sound(self.one)
            return False
        if outcome != ANSWERED and not self.may_be_partial(target, answer) and state(self.one) != before:
            raise Defect(f"{target.name} was refused ({answer!r}) and changed something")
        timed = type(self.one).__name__.endswith("Job")
        if timed:
            return True
        if self.two is not None or any(value.disguised for value in values):
            again, twin = call(self.bind(target, self.two), *plain, also)
            self.count.add(f"{self.group or 'functions'}:{target.attribute or target.name}", again)
            self.compare(target, (outcome, answer), (again, twin))
        return not (isinstance(self.one, s2pt.Stage2) and self.one.closed and self.rng.randrange(4))

    def bind(self, target: Target, thing: Any) -> Callable[..., Any]:
        if target.owner is None:
            return target.function
        if target.is_property:
            return lambda *args, **keywords: getattr(thing, target.attribute)
        return getattr(thing, target.attribute)

    def may_be_partial(self, target: Target, error: Any) -> bool:
        if target.attribute in PARTIAL and (getattr(error, "index", None) or 0) > 0:
            return True
        # With KVM's habits an operation that runs out of frames, or meets what it leaves alone, ends part way.
        kvm = isinstance(self.one, s2pt.Stage2) and not self.one.closed and self.one.geometry.blocks == Blocks.KVM
        return kvm and isinstance(error, s2pt.OutOfFramesError | s2pt.Again)

    def compare(self, target: Target, one: tuple[str, Any], two: tuple[str, Any]) -> None:
        """Check that a disguised argument gets what the plain one gets."""
        if one[0] != two[0] or (one[0] != ANSWERED and type(one[1]) is not type(two[1])):
            raise Defect(f"{target.name}: {one!r}, and with plain arguments {two!r}")
        # A new object is what it was given.
        incomparable = isinstance(target.function, type)
        if one[0] == ANSWERED and not incomparable and normal(one[1]) != normal(two[1]):
            raise Defect(f"{target.name}: {one[1]!r}, and with plain arguments {two[1]!r}")
        if self.two is not None and state(self.one) != state(self.two):
            raise Defect(f"{target.name} left two tables that differ")


def shown(arg: Arg) -> str:
    value = arg.value
    if issubclass(type(value), np.ndarray):
        return f"{type(value).__name__}({value.dtype}, {value.shape}, {value.strides})"
    if type(value) is int and abs(value) > 1 << 130:
        return "huge"
    try:
        return f"{repr(value)[:60]}"
    except BaseException as error:
        return f"<{type(value).__name__}: {type(error).__name__}>"


@functools.cache
def groups() -> dict[str, list[Target]]:
    """Give the targets by the class whose objects have them; functions and constructors under an empty name."""
    found: dict[str, list[Target]] = collections.defaultdict(list)
    for target in surface():
        found[class_of(target)].append(target)
    return dict(found)


# How often each class is tried: tables and VMs have most to lose.
WEIGHTS = {"s2pt.Stage2": 30, "s2pt.vm.Vm": 14, "": 20, "s2pt._core.Vm": 3, "s2pt.image.Image": 6}


def search(rng: random.Random, sequences: int, calls: int, count: Count) -> None:
    """Run so many sequences of calls."""
    by_class = groups()
    names = sorted(by_class)
    weights = [WEIGHTS.get(name, 1) for name in names]
    for _ in range(sequences):
        name = rng.choices(names, weights)[0]
        Sequence(rng, name, by_class[name], count).run(calls)
