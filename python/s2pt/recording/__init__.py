"""Recordings of what a table did: checked, kept in files, written for casemate.

`Stage2.trace` gives one of a table that was made with ``sink="recording"``. `Recording.check` plays it again and looks
at the eight invariants of break-before-make, without any of the library's own code; docs/recordings.md says how each
is read.

Examples
--------
>>> from s2pt import Stage2
>>> s2 = Stage2(ipa_bits=39, sink="recording")
>>> _ = s2.map(0x8000_0000, "2MiB", pa=0x4000_0000)
>>> _ = s2.unmap(0x8000_0000, 4096)
>>> trace = s2.trace()
>>> trace
Recording(... events of 1 thread)
>>> trace.check().raise_if_bad().ok
True
>>> broken = trace.without(lambda event: event.kind == "tlbi_ipa")
>>> print(broken.check().violations[0])
I2: entry 0x100000000 (IPA 0x80000000) made too early: no TLBI between the DSB and here (...) [steps ..., ...]
"""

from __future__ import annotations

from s2pt.recording.recording import Recording, load
from s2pt.recording.report import INVARIANTS, Invariant, Report, Violation
from s2pt.recording.setup import Setup
from s2pt.recording.tables import Snapshot

__all__ = ["INVARIANTS", "Invariant", "Recording", "Report", "Setup", "Snapshot", "Violation", "load"]
