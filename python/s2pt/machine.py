"""What a simulated machine says: the rules that were broken, and what happened in which order.

`s2pt.Machine` has the CPUs; this module has what it reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from s2pt._core import Cpu, Machine
from s2pt.events import describe

__all__ = ["Cpu", "LogEntry", "Machine", "Violation"]


@dataclass(frozen=True, slots=True, repr=False)
class Violation:
    """One broken rule, with its witness.

    Attributes
    ----------
    sequence : int
        Its place in the order of everything on the machine, as in `Machine.log`.
    kind : str
        ``"conflict"``: a CPU came to hold two translations of one address that differ in more than permissions.
        ``"made-too-early"``: an entry got its new value while a CPU still held what was read through it before.
        ``"stale"``: a CPU holds, or uses, what the table no longer gives. ``"freed-frame"``: a table was freed while
        a CPU could walk through it. ``"lost-access-flag"``, ``"lost-dirty"``: what hardware noted in a leaf is gone.
        ``"stuck"``: an access did not get through, however often its fault was handled.
    cpu : int or None
        The CPU on which it shows.
    ipa : int or None
        Where in the guest's memory.
    what : str
        What was seen.
    """

    sequence: int
    kind: Literal["conflict", "made-too-early", "stale", "freed-frame", "lost-access-flag", "lost-dirty", "stuck"]
    cpu: int | None
    ipa: int | None
    what: str

    def __repr__(self) -> str:
        cpu = "" if self.cpu is None else f" cpu={self.cpu}"
        ipa = "" if self.ipa is None else f" ipa={self.ipa:#x}"
        return f"<Violation {self.kind}{cpu}{ipa}: {self.what}>"


@dataclass(frozen=True, slots=True, repr=False)
class LogEntry:
    """One thing that happened on a machine.

    Attributes
    ----------
    sequence : int
        Its place in the order of everything.
    cpu : int or None
        The CPU that did it; None: the software.
    kind : str
        A kind of `s2pt.events.Event`, or ``"read"``, ``"write"``, ``"fetch"`` (an access that got through),
        ``"fault"``, ``"fill"`` (a walk ended at a leaf), ``"update"`` (hardware wrote access flag or dirty state),
        ``"violation"``.
    fields : dict
        What belongs to it: ``ipa``, ``pa``, ``entry``, ``leaf``, ``old``, ``new``, ``esr``, ``level``, ``what``, or as
        in `s2pt.events.Event`.
    """

    sequence: int
    cpu: int | None
    kind: str
    fields: Mapping[str, int | str | bool | None]

    def __repr__(self) -> str:
        who = "software" if self.cpu is None else f"cpu {self.cpu}"
        return f"<{self.sequence} {who}: {describe(self.kind, self.fields)}>"
