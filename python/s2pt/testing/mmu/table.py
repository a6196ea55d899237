"""What is asked and what is answered: tables, probes, answers, the same for every oracle.

A `Table` is bytes at physical addresses with the registers that point to them; where they come from (`trees`, `own`)
does not matter to an oracle. A batch of probes and its answers are numpy arrays, so that a million of them cost little.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from s2pt.image import Image
from s2pt.testing.mmu.shapes import Shape

if TYPE_CHECKING:
    from s2pt.testing.mmu.known import Applied

__all__ = [
    "ACCESSES",
    "ANSWER",
    "PROBE",
    "UNTOLD",
    "AstrayError",
    "Oracle",
    "OracleError",
    "OracleMissingError",
    "Table",
    "Words",
    "answers_of",
]

Words = NDArray[np.uint64]

ACCESSES = ("r", "w", "x")
"""Kinds of access by number, as `PROBE` holds them."""

PROBE = np.dtype([("ipa", "<u8"), ("access", "<u8"), ("el", "<u8")])
"""A probe: a byte address, an index into `ACCESSES`, the exception level 0 or 1."""

ANSWER = np.dtype(
    [("known", "?"), ("fault", "<u8"), ("level", "<i8"), ("pa_known", "?"), ("pa", "<u8"), ("mair", "<u8")]
)
"""An oracle's answer: a FaultCode; `known` is False where it tells only that there is a fault, `pa_known` where it does
not tell the address of a hit; `mair` is the memory type as PAR_EL1 says it, 256 if untold."""

UNTOLD = 256


class OracleError(Exception):
    """The oracle itself does not work: it is not installed, it died, or it does not answer in time."""


class AstrayError(OracleError):
    """The hardware does not walk to the guest's own page, to which our walk leads."""


class OracleMissingError(OracleError):
    """The oracle is not installed here."""


@dataclass
class Table:
    """A stage-2 table in memory, and what the CPU that walks it is told.

    Attributes
    ----------
    name : str
        Which configuration this is, for reports.
    shape : Shape
        What it is made for.
    vtcr, vttbr : int
        The registers.
    regions : list of (int, numpy.ndarray of uint64)
        The frames: physical addresses, and the words from there on.
    guest_page : int
        IPA of the page with the guest's code, for oracles that run one.
    probes : numpy.ndarray of `PROBE`
        What to ask.
    """

    name: str
    shape: Shape
    vtcr: int
    vttbr: int
    regions: list[tuple[int, Words]]
    guest_page: int = 0
    probes: NDArray[np.void] = field(default_factory=lambda: np.zeros(0, PROBE))

    def image(self) -> Image:
        """Return the table as `s2pt.image` reads it."""
        options: dict[str, Any] = {"fwb": self.shape.fwb, "xnx": self.shape.xnx, "dialect": "own"}
        if len(self.regions) == 1:
            base, words = self.regions[0]
            return Image(words.tobytes(), self.vtcr, self.vttbr, base=base, **options)
        return Image(self._read, self.vtcr, self.vttbr, **options)

    def _read(self, pa: int, size: int) -> bytes | None:
        for base, words in self.regions:
            if base <= pa and pa + size <= base + words.nbytes:
                return words[(pa - base) // 8 : (pa - base + size) // 8].tobytes()
        return None


class Oracle(Protocol):
    """An MMU that nobody of this project wrote."""

    name: str

    def ask(self, table: Table) -> NDArray[np.void]:
        """Answer the table's probes, an array of `ANSWER`. May write to the table what its hardware updated."""
        ...

    def check(self, table: Table, ours: NDArray[np.void]) -> list[str]:
        """Say what else is wrong with what the hardware did for the last `ask`: registers, stores, updated entries."""
        ...

    def excuse(self, table: Table, ours: NDArray[np.void], theirs: NDArray[np.void], applied: Applied) -> None:
        """Correct `theirs` where a known fault of this oracle applies, and count it."""
        ...

    def close(self) -> None:
        """End whatever runs."""
        ...


def groups(probes: NDArray[np.void]) -> Iterator[tuple[str, int, NDArray[np.bool_]]]:
    """Yield access, exception level and the mask of the probes that have them."""
    for number, access in enumerate(ACCESSES):
        for el in (0, 1):
            mask = (probes["access"] == number) & (probes["el"] == el)
            if mask.any():
                yield access, el, mask


def answers_of(image: Image, probes: NDArray[np.void]) -> NDArray[np.void]:
    """Answer probes by our own walk of an image: the rows of `Image.access_many`."""
    rows: NDArray[np.void] | None = None
    for access, el, mask in groups(probes):
        some = image.access_many(np.ascontiguousarray(probes["ipa"][mask]), access, el=el)  # type: ignore[arg-type]
        if rows is None:
            rows = np.zeros(len(probes), some.dtype)
        rows[mask] = some
    return rows if rows is not None else image.access_many(np.zeros(0, np.uint64))
