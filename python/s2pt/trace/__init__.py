"""What real KVM guests did to their stage-2 tables: recorded traces as a typed stream of events.

`read` takes the ftrace text of a run (``TAG.txt``, plain or ``.xz``) with the files beside it, or one snapshot of a run
of snapshots that carry their trace, and gives a `Trace`: one structured array of events in the order of time
(`s2pt.trace.EVENT`), and the tables that KVM had at the dump markers. `s2pt.trace.Kind` says what each event means.

========================  ===========================================================================================
file                      gives
========================  ===========================================================================================
``TAG.txt``               guest faults, notifier ranges, ageing, markers
``TAG.json``              memory slots over time, vCPU threads, kernel, geometry; required
``TAG.pgt.txt``           the table calls: when each change happened, write protection, splits (without it: a coarser
                          order, and write protection of a dirty log cannot be known)
``TAG.faults.csv``        what each fault did (without it: taken from the table calls; without both: only KVM's rule)
``TAG.DUMP.leaves.json``  the table at marker ``dump_end DUMP``, and the host pages behind the guest's memory
========================  ===========================================================================================

Two records of one fault stand in the stream, `FAULT` and `HANDLED`; `s2pt.trace.build` says why, and which clock orders
what. Whatever is cut off, damaged or missing raises `TraceError` with file, line and what was expected there.

Examples
--------
>>> import s2pt.trace
>>> trace = s2pt.trace.read("tests/data/kvm-traces/thpon_2vcpu.txt.xz")
>>> trace.name, trace.vcpus, len(trace.faults), [dump.name for dump in trace.dumps]
('thpon_2vcpu', 2, 15658, ['end'])
>>> hex(trace.dumps[0].leaves[0]["ipa"])
'0x40000000'
"""

from __future__ import annotations

import os
from pathlib import Path

from s2pt.errors import TraceError
from s2pt.trace.events import EVENT, LEAF, EventFlag, Kind, Outcome, SlotChange, as_words
from s2pt.trace.files import beside
from s2pt.trace.host import Pagemap
from s2pt.trace.load import Trace, load_ftrace
from s2pt.trace.replay import Replay, ReplayReport
from s2pt.trace.sidecar import Dump, TableShape
from s2pt.trace.snapshots import load_snapshots, snapshot_names

__all__ = [
    "EVENT",
    "LEAF",
    "Dump",
    "EventFlag",
    "Kind",
    "Outcome",
    "Pagemap",
    "Replay",
    "ReplayReport",
    "SlotChange",
    "TableShape",
    "Trace",
    "TraceError",
    "as_words",
    "read",
]


def read(path: str | os.PathLike[str], *, allow_lost: bool = False) -> Trace:
    """Read a recorded run.

    Parameters
    ----------
    path : path
        ``TAG.txt`` or ``TAG.txt.xz``, or just ``TAG``; or any ``PREFIX_STAGE.json`` of a run of snapshots that carry
        their trace, or just ``PREFIX``. The files beside it are found by their names.
    allow_lost : bool
        Accept a trace from which the kernel lost events; the loss is a note of the result.

    Returns
    -------
    Trace

    Raises
    ------
    TraceError
        No such file, no trace, something cut off or damaged, events lost, or a file missing that cannot be missed.

    Examples
    --------
    >>> read("tests/data/kvm-traces/README.md")
    Traceback (most recent call last):
        ...
    s2pt.errors.TraceError: README.md:2: expected '# entries-in-buffer/entries-written: N/N' first, found ''
    """
    path = Path(path)
    folder, name = path.parent, path.name.removesuffix(".xz")
    if path.is_file():
        if name.endswith(".json"):
            return load_snapshots(folder, name.removesuffix(".json"))
        if name.endswith(".pgt.txt"):
            raise TraceError(f"{path.name}: expected the trace itself, {name.removesuffix('.pgt.txt')}.txt")
        return load_ftrace(path, allow_lost=allow_lost)
    if path.is_dir():
        raise TraceError(f"{path}: expected a trace, found a folder")
    text = beside(folder, f"{name}.txt")
    if text is not None:
        return load_ftrace(text, allow_lost=allow_lost)
    if folder.is_dir() and snapshot_names(folder, name):
        return load_snapshots(folder, None, prefix=name)
    raise TraceError(f"{path}: no such file, and neither {name}.txt nor {name}_*.json is there")
