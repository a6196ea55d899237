"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from s2pt.errors import ViolationError
from s2pt.recording.tables import Snapshot

__all__ = ["INVARIANTS", "Invariant", "Report", "Violation"]

INVARIANTS = {
    "history": "the recording is one that can have happened: each store finds what the one before left",
    "I1": "each frame that was taken is linked, retired, or was given back, once",
    "I2": "no valid entry becomes another translation without a break, a TLBI that covers it, and its barriers",
    "I3": "only permissions, access flag, dirty state and software bits change in place, and the TLBI follows",
    "I4": "a table is freed after its parent entry is gone and invalidated, and it was retired; nobody writes it then",
    "I5": "who locks or freezes an entry makes or thaws it, before his call returns",
    "I6": "each leaf maps memory that a leaf of its level can map, and what the caller says it maps",
    "I7": "what a call built and could not link it gave back",
    "I8": "nobody writes over an entry that another holds",
    "R11": "new valid entries are published before the call returns",
}
"""The rows of a report, by name."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One rule that was broken.

    Attributes
    ----------
    invariant : str
        Its name in `INVARIANTS`.
    sequences : tuple of int
        Sequence numbers of the steps that show it.
    entry : int or None
        Physical address of the entry, or of the frame.
    ipa : int or None
        First address that the entry translates, where that is known.
    text : str
        What is wrong.
    """

    invariant: str
    sequences: tuple[int, ...]
    entry: int | None
    ipa: int | None
    text: str

    def __str__(self) -> str:
        steps = ", ".join(map(str, self.sequences))
        where = "" if self.entry is None else f" entry {self.entry:#x}"
        if self.ipa is not None:
            where += f" (IPA {self.ipa:#x})"
        return f"{self.invariant}:{where} {self.text}" + (f" [steps {steps}]" if steps else "")


@dataclass(frozen=True, slots=True)
class Invariant:
    """One row of a report.

    Attributes
    ----------
    name, title : str
        As in `INVARIANTS`.
    checked : int
        How many facts were looked at.
    violations : tuple of Violation
        Where it does not hold.
    """

    name: str
    title: str
    checked: int
    violations: tuple[Violation, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found; its text is a table of the invariants.

    Attributes
    ----------
    events, threads : int
        Size of the recording.
    invariants : tuple of Invariant
        Each rule, with what was looked at and what is wrong.
    moved : int
        Compare-exchanges that took place before steps with smaller numbers, as the values show.
    owed : int
        Rights that were taken away with the TLBI left to the caller, who has not issued it (KVM's semantics).
    end : Snapshot
        What was in the tables at the end: where the next recording of the same table starts.
    """

    events: int
    threads: int
    invariants: tuple[Invariant, ...]
    moved: int
    owed: int
    end: Snapshot

    @property
    def ok(self) -> bool:
        """Whether no rule was broken."""
        return not any(row.violations for row in self.invariants)

    @property
    def violations(self) -> tuple[Violation, ...]:
        """All that is wrong, by invariant."""
        return tuple(violation for row in self.invariants for violation in row.violations)

    def __getitem__(self, name: str) -> Invariant:
        """Give the row of an invariant."""
        found = next((row for row in self.invariants if row.name == name), None)
        if found is None:
            raise KeyError(name)
        return found

    def raise_if_bad(self) -> Report:
        """Return the report itself, or raise.

        Raises
        ------
        ViolationError
            A rule was broken; the message names the first, the exception carries all.
        """
        if not self.ok:
            first, *rest = self.violations
            raise ViolationError(f"{first}" + (f", and {len(rest)} more" if rest else ""), violations=self.violations)
        return self

    def __str__(self) -> str:
        lines = [f"{self.events} steps of {self.threads} threads, {self.moved} of them numbered late"]
        lines += [f"{row.name:<8} {row.checked:>8} {len(row.violations):>4}  {row.title}" for row in self.invariants]
        if self.owed:
            lines.append(f"the caller owes the TLBI for {self.owed} rights that went")
        return "\n".join(lines + [str(violation) for violation in self.violations])

    def to_json(self) -> dict[str, Any]:
        """Give the report as plain values, without the tables at its end."""
        return {
            "ok": self.ok,
            "events": self.events,
            "threads": self.threads,
            "moved": self.moved,
            "owed": self.owed,
            "invariants": [
                {"name": row.name, "title": row.title, "checked": row.checked, "violations": len(row.violations)}
                for row in self.invariants
            ],
            "violations": [
                {
                    "invariant": bad.invariant,
                    "sequences": list(bad.sequences),
                    "entry": bad.entry,
                    "ipa": bad.ipa,
                    "text": bad.text,
                }
                for bad in self.violations
            ],
        }
