"""Arguments for hostile calls: right values, right values in disguise, and everything else that an object can be.

All choices are made by a `random.Random`, so that Hypothesis can shrink what a test draws, and a campaign can name the
seed of what it found.
"""

from __future__ import annotations

import collections
import enum
import fractions
import mmap
import random
import sys
import types
from dataclasses import dataclass
from typing import Any

import numpy as np

import s2pt
from s2pt import _core
from s2pt.types import Access, Existing, MemType, Prot, WalkFlags

PAGE, MIB = 4096, 1 << 20


class Own(Exception):  # noqa: N818
    """What hostile arguments raise."""


class OwnBase(BaseException):
    """The same, and not caught by `except Exception`."""


class OwnInterrupt(KeyboardInterrupt):
    """As if Ctrl-C came in the middle of an argument."""


class OwnExit(SystemExit):
    """As if an argument left the process."""


OWN = (Own, OwnBase, OwnInterrupt, OwnExit)


@dataclass
class Arg:
    """An argument, and one that must be answered the same."""

    value: Any
    plain: Any
    disguised: bool = False
    acts: bool = False


def same(value: Any) -> Arg:
    return Arg(value, value)


# ------------------------------------------------------------------------------------------------- objects


class Index:
    """An integer by `__index__`, which may do something first."""

    def __init__(self, value: Any, action: Any = None) -> None:
        self.value, self.action = value, action

    def __index__(self) -> Any:
        if self.action is not None:
            self.action()
        return self.value

    def __repr__(self) -> str:
        return f"Index({type(self.value)!s})"


class LoudInt(int):
    """An int that lies about itself in every way that a subclass can."""

    def __index__(self) -> int:
        raise Own("index")

    __int__ = __float__ = __neg__ = __index__

    def __lt__(self, other: object) -> bool:
        raise OwnBase("lt")

    __gt__ = __le__ = __ge__ = __lt__

    def __eq__(self, other: object) -> bool:
        raise OwnInterrupt("eq")

    def __hash__(self) -> int:
        raise OwnExit("hash")

    def __format__(self, spec: str) -> str:
        return "x" * 1000

    def __repr__(self) -> str:
        raise Own("repr")

    __str__ = __repr__


class LoudText(str):
    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        raise Own("eq")

    def __hash__(self) -> int:
        raise OwnBase("hash")

    def __str__(self) -> str:
        raise Own("str")

    __repr__ = __str__


class Loud:
    """Raises whatever it is asked."""

    def __init__(self, kind: type[BaseException]) -> None:
        object.__setattr__(self, "_kind", kind)

    def _raise(self, *_: Any, **__: Any) -> Any:
        raise object.__getattribute__(self, "_kind")("asked")

    __index__ = __int__ = __float__ = __bool__ = __len__ = __iter__ = __next__ = __getitem__ = __contains__ = _raise
    __eq__ = __lt__ = __hash__ = __repr__ = __str__ = __format__ = __call__ = __array__ = __fspath__ = _raise


class Attributes:
    """Raises when an attribute is looked for."""

    def __getattribute__(self, name: str) -> Any:
        raise Own(name)


class Array:
    """Says that it is an array."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self._answer


class Interface:
    __array_interface__ = {"shape": (1 << 40,), "typestr": "<u8", "data": (8, True), "version": 3}  # noqa: RUF012


class Derived(np.ndarray):
    """An array whose methods give something else."""

    def copy(self, order: str = "C") -> Any:
        return np.zeros((), np.uint64)

    def __len__(self) -> int:
        return 1 << 40

    def __getitem__(self, key: Any) -> Any:
        raise Own("getitem")


class Finalizing(np.ndarray):
    ready = False

    def __array_finalize__(self, obj: Any) -> None:
        if Finalizing.ready:
            raise Own("finalize")


def _finalizing() -> Any:
    Finalizing.ready = False
    array = np.zeros(8, np.uint64)[::2].view(Finalizing)
    Finalizing.ready = True
    return array


class Word(enum.StrEnum):
    KEEP = "keep"
    R = "r"
    NOTHING = ""


class Bits(enum.IntFlag):
    NONE = 0
    RW = 12
    HIGH = 1 << 40


HUGE = (1 << 64, 1 << 65, 1 << 128, 10**5000, -(10**5000), 1 << 63, (1 << 64) - 1, (1 << 64) - PAGE, -(1 << 63))


def _odd(rng: random.Random) -> Any:
    """One of the objects that nobody expects; all stateless, so that two calls meet the same."""
    loop: list[Any] = []
    loop.append(loop)
    return rng.choice(
        (
            None, True, False, 0.0, -1.5, float("nan"), float("inf"), -float("inf"), 1e300, 1j, "", "x", "\0", "\ud800",
            "2MiB", "9" * 5000, "-1", "0x", " 4096 ", "r", "keep", b"", b"\0" * 4096, bytearray(8), memoryview(b"abcd"),
            [], [0], (), (1, 2), {}, {"ipa": 0}, set(), frozenset(), range(3), slice(None), Ellipsis, NotImplemented,
            object(), object, type, len, print, lambda *_: None, sys, collections.OrderedDict(), loop,
            fractions.Fraction(4096), types.SimpleNamespace(ipa=0), ValueError("x"), Prot.RW, Prot(0), MemType.NORMAL,
            Access.READ, Existing.KEEP, WalkFlags.FAULT, Word.KEEP, Word.R, Word.NOTHING, Bits.RW, Bits.HIGH,
            np.uint8(7), np.int64(-1), np.uint64((1 << 64) - 1), np.float32(1), np.bool_(True), np.datetime64(1, "s"),
            np.str_("r"), np.bytes_(b"r"), np.dtype("u8"), LoudInt(PAGE), LoudInt(-5), LoudInt(1 << 70), LoudText("r"),
            LoudText("keep"), Attributes(), Interface(), Index("no integer"), Index(None), Index(np.uint64(0)),
            Index(True), Index(10**5000),
            Index(-1), Index(Index(0)), _core.LEAF_DTYPE, s2pt.Stage2, s2pt.S2ptError("x"), s2pt.DirtyLog(),
        )
    )  # fmt: skip


def _array(rng: random.Random) -> Any:
    """Make an array that is wrong in some way, or strange and right."""
    pages = np.arange(6, dtype=np.uint64) * np.uint64(PAGE)
    wrong = (
        lambda: pages.astype(rng.choice(("<i8", ">u8", "<u4", "<f8", "?", "<c16", "O", "S8", "U2", "<M8[s]", "f2"))),
        lambda: np.zeros(3, dtype=[("a", "<u8"), ("b", "<u8")]),
        lambda: pages.reshape(2, 3), lambda: pages.reshape(6, 1), lambda: pages.reshape((1,) * 7 + (6,)),
        lambda: np.array(PAGE, np.uint64), lambda: np.zeros(0, np.uint64), lambda: np.zeros((0, 21), np.uint64),
        lambda: np.zeros((21, 0), np.uint64), lambda: np.zeros((3, 21), np.uint64), lambda: np.full((2, 21), 3, ">u8"),
        lambda: pages.view(Derived), lambda: pages[::2].view(Derived), lambda: pages.reshape(2, 3).T.view(Derived),
        lambda: np.zeros((2, 42), np.uint64)[:, ::2].view(Derived), lambda: pages.view(np.recarray),
        lambda: np.ma.masked_array(pages, mask=[1, 0, 1, 0, 0, 0]), lambda: _finalizing(),
        lambda: np.broadcast_to(np.uint64(rng.choice((0, PAGE, 7, (1 << 64) - 1))), (5,)),
        lambda: np.array([0, (1 << 64) - 1], np.uint64), lambda: np.array([0, PAGE, 1], np.uint64),
        lambda: np.array([PAGE, 1 << 40], np.uint64), lambda: np.array([object(), None]),
        lambda: Array(pages), lambda: Array(None),
        lambda: np.lib.stride_tricks.as_strided(pages, (1 << 20,), (0,)),
    )  # fmt: skip
    return rng.choice(wrong)()


def _acting(rng: random.Random, table: Any) -> Any:
    """Make an argument that uses the very table (or closes it) while it is asked for its value."""
    actions = (
        lambda: table.unmap(0, 2 * MIB), lambda: table.map(0, PAGE, 0), lambda: list(table), lambda: table.drain(),
        lambda: table.close(), lambda: table.map(Index(0, lambda: table.unmap(0, PAGE)), PAGE, 0),
        lambda: table.stats(), lambda: table.take_back(0, PAGE), lambda: table.access(1 << 30, "w"),
    )  # fmt: skip
    action = rng.choice(actions)

    def act() -> None:
        try:
            action()
        except (s2pt.S2ptError, AttributeError, TypeError):
            return

    return Index(rng.choice((0, PAGE, 2 * MIB, -1, "x")), act)


def hostile(rng: random.Random, table: Any) -> Arg:
    """Something that no call expects."""
    kind = rng.randrange(20)
    if kind < 5:
        return same(rng.choice((*HUGE, -1, -PAGE, 1, 7, PAGE - 1, PAGE + 1)))
    if kind < 8:
        return same(Loud(rng.choice(OWN)) if rng.randrange(3) == 0 else _odd(rng))
    if kind < 13:
        return same(_array(rng))
    if kind == 13 and table is not None:
        return Arg(_acting(rng, table), None, acts=True)
    return same(_odd(rng))


# ------------------------------------------------------------------------------------------------- disguises


def _mapped(array: Any) -> Any:
    memory = mmap.mmap(-1, max(array.nbytes, 1))
    copy = np.frombuffer(memory, np.uint64, len(array))
    copy[:] = array
    return copy


def disguise(rng: random.Random, plain: Any) -> Arg:
    """Give the same value as another object, which must get the same answer."""
    if isinstance(plain, np.ndarray) and plain.dtype == np.uint64 and plain.ndim == 1:
        padded = np.zeros(2 * len(plain), np.uint64)
        padded[::2] = plain
        raw = np.zeros(8 * len(plain) + 3, np.uint8)[3:]
        misaligned = raw.view("<u8") if len(plain) else plain
        misaligned[:] = plain
        frozen = plain.copy()
        frozen.flags.writeable = False
        forms = [padded[::2], plain[::-1].copy()[::-1], misaligned, frozen, _mapped(plain), plain.view(Derived),
                 padded[::2].view(Derived), np.ma.masked_array(plain)]  # fmt: skip
        return Arg(rng.choice(forms), plain, disguised=True)
    if type(plain) is int and 0 <= plain < 1 << 64:
        forms = [np.uint64(plain), Index(plain), type("Sub", (int,), {})(plain), LoudInt(plain)]
        return Arg(rng.choice(forms), plain, disguised=True)
    if type(plain) is str:
        return Arg(type("Text", (str,), {"__str__": lambda self: "?"})(plain), plain, disguised=True)
    return same(plain)
