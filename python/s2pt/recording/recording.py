"""A recording: steps, and the table that they are of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from s2pt._checks import check_each, check_integer, check_kind, check_type
from s2pt.errors import RecordingError
from s2pt.events import Event
from s2pt.recording import casemate, files
from s2pt.recording.check import Outputs, check
from s2pt.recording.report import Report
from s2pt.recording.setup import Setup
from s2pt.recording.tables import Snapshot

__all__ = ["Recording", "load"]


@dataclass(frozen=True, slots=True, repr=False)
class Recording:
    """What a table did.

    Attributes
    ----------
    setup : Setup
        The table.
    events : tuple of Event
        The steps, by number.
    dropped : int
        Steps that were lost because a thread took more than are kept.
    """

    setup: Setup
    events: Sequence[Event]
    dropped: int = 0

    def __post_init__(self) -> None:
        # One by one: what says of itself how long it is need not be right.
        object.__setattr__(self, "events", tuple(check_each(self.events, Event, "events")))
        check_type(self.setup, Setup, "setup")
        check_integer(self.dropped, "dropped", 0, (1 << 64) - 1)

    def __len__(self) -> int:
        return len(self.events)

    def __repr__(self) -> str:
        threads = len({event.thread for event in self.events})
        dropped = f", {self.dropped} dropped" if self.dropped else ""
        return f"Recording({len(self)} events of {threads} thread{'s' if threads != 1 else ''}{dropped})"

    def __add__(self, later: Recording) -> Recording:
        """Join a recording with the one of the same table that was taken next."""
        if not isinstance(later, Recording):
            return NotImplemented
        if self.setup != later.setup:
            raise RecordingError("the recordings are of different tables")
        if self.events and later.events and self.events[-1].sequence >= later.events[0].sequence:
            raise RecordingError("the second recording does not come after the first")
        return Recording(self.setup, (*self.events, *later.events), max(self.dropped, later.dropped))

    def without(self, drop: Callable[[Event], bool]) -> Recording:
        """Give the recording without the steps that `drop` says yes to: for tests of a checker."""
        return replace(self, events=tuple(event for event in self.events if not drop(event)))

    def check(self, *, start: Snapshot | None = None, outputs: Outputs | None = None) -> Report:
        """Look whether the steps keep the rules of the protocol.

        Take the recording while no call is under way: a call that is half done looks like one that left things undone.

        Parameters
        ----------
        start : Snapshot, optional
            What the tables held at the beginning; the `end` of the report on the recording before. Not needed for
            one that begins with the table.
        outputs : callable, optional
            Gives for an IPA the physical address that a leaf there must map, or a collection of allowed ones.
            Without it only the form of leaves is looked at.

        Returns
        -------
        Report

        Raises
        ------
        RecordingError
            Steps were dropped, or it does not begin with the table and no `start` is given, or it makes no sense.
        """
        if self.dropped:
            raise RecordingError(f"{self.dropped} steps were dropped: what is left cannot be checked")
        if start is not None:
            check_type(start, Snapshot, "start")
        if outputs is not None:
            check_kind(outputs, Callable, "outputs")
        self._look()
        return check(self.events, self.setup, start, outputs)

    def casemate(self, *, local: str = "refuse") -> str:
        """Write the recording as a log for casemate.

        Parameters
        ----------
        local : str
            What becomes of TLBIs and barriers that concern one CPU, for which casemate has no words: ``"refuse"`` or
            ``"leave-out"``. Leaving them out takes nothing from break-before-make, which is about broadcast ones.

        Returns
        -------
        str
            One line a step.

        Raises
        ------
        RecordingError
            The recording says something that casemate does not know: another granule than 4K, LPA2, a root of several
            frames, a TLBI of one CPU. Or steps were dropped, or it does not begin with the table.
        """
        if self.dropped:
            raise RecordingError(f"{self.dropped} steps were dropped: the log would not begin with the table")
        check_type(local, str, "local")
        self._look()
        return casemate.write(self.events, self.setup, local)

    def save(self, path: str | Path) -> None:
        """Write the recording to a file, one JSON value a line; compressed if the name ends in ``.xz``."""
        self._look()
        files.save(path, self.setup, self.events, self.dropped)

    def _look(self) -> None:
        """Refuse steps that nobody can have taken: those of the library are right, handmade ones may be anything."""
        for event in self.events:
            wrong = files.refusal(event)
            if wrong is not None:
                raise RecordingError(f"step {event.sequence!r:.40}: {wrong}")


def load(path: str | Path) -> Recording:
    """Read a recording that `Recording.save` wrote, or a casemate log.

    Raises
    ------
    RecordingError
        The file is neither, or is cut off; the message names the line.
    OSError
        There is no such file.
    """
    text = files.read(path)
    if files.is_recording(text):
        return Recording(*files.parse(text))
    return Recording(*casemate.read(text))
