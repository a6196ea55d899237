"""The record of one event, laid out so that Rust reads it without a copy.

Every field is eight bytes, signed or unsigned, so an array of `EVENT` is also a plain two-dimensional array of 64-bit
words: ``events.view("<u8").reshape(len(events), -1)``. The same holds for `LEAF`.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

import numpy as np
import numpy.typing as npt

__all__ = ["EVENT", "LEAF", "NO_VCPU", "EventFlag", "Kind", "Outcome", "SlotChange", "as_words"]

NO_VCPU = -1
"""The `vcpu` of an event that the host caused."""


class Kind(IntEnum):
    """What happened.

    A guest fault is two records, because the faults of several vCPUs overlap: `FAULT` is the moment at which the MMU
    had refused the access (the table was then in the state that the syndrome speaks of), `HANDLED` the moment at which
    KVM's call for it had changed the table.
    """

    FAULT = 1
    """The MMU refused an access: `vcpu`, `ipa`, `esr`, `far`."""
    HANDLED = 2
    """KVM is done with the fault at row `ref`: `outcome`; where known `map_ipa` ... `ret`; also `pa`, `host_size`."""
    UNMAP = 3
    """The host takes `size` bytes from `ipa` back."""
    AGE = 4
    """The host looks whether the guest used `size` bytes from `ipa`; `ref` = 1: and forgets it (clears the flag)."""
    SLOT = 5
    """A memory slot changes: `slot`, `ipa`, `size`, `hva`, `flags` (KVM's), `ref` = `SlotChange`."""
    WRPROTECT = 6
    """The dirty log takes write permission from every leaf that touches `size` bytes from `ipa`."""
    SPLIT = 7
    """Blocks in `size` bytes from `ipa` become pages, ahead of the faults."""
    MAP = 8
    """The host maps a page itself, outside any fault (kernels up to 6.9, after copy-on-write)."""
    DUMP = 9
    """Here the table was dumped: `ref` is the index in `Trace.dumps`."""
    MARK = 10
    """Another marker: `ref` is the index in `Trace.marks`."""
    DESTROY = 11
    """The VM's table is taken down."""
    CLEAR_LOG = 12
    """User space took dirty bits of `slot` out of the bitmap; the `WRPROTECT` that follows is its own record."""


class Outcome(IntEnum):
    """How KVM answered a guest fault."""

    UNKNOWN = 0
    MAP = 1
    RELAX = 2
    MMIO = 3
    RETRY = 4
    """No call on the table: an invalidation came in between, and the vCPU runs on to fault again."""
    YOUNG = 5
    """An access-flag fault: the flag was set."""


class EventFlag(IntFlag):
    """Remarks in `flags` of every record but a `SLOT`."""

    ACCESS_LINE = 1
    """The trace has a kvm_access_fault line for this fault."""
    NO_PA = 2
    """`pa` is not known: the page was gone before the next dump, and nothing recorded its address."""
    HOST_READ_ONLY = 4
    """The host maps this page read-only (one page behind many addresses: the zero page)."""
    INFERRED = 8
    """No line of the trace says this; it follows from what the traced program does at this point."""
    OWN_THREAD = 16
    """A vCPU's own fault caused this host event (copy-on-write)."""


class SlotChange(IntEnum):
    """What happens to a memory slot, numbered as in KVM's enumeration."""

    CREATE = 0
    DELETE = 1
    MOVE = 2
    FLAGS = 3


_U, _I = "<u8", "<i8"

EVENT = np.dtype(
    [
        ("time_us", _U),
        ("kind", _U),
        ("vcpu", _I),
        ("tid", _I),
        ("ipa", _U),
        ("size", _U),
        ("esr", _U),
        ("far", _U),
        ("outcome", _U),
        ("map_ipa", _U),
        ("map_size", _U),
        ("map_pa", _U),
        ("prot", _U),
        ("ret", _I),
        ("pa", _U),
        ("host_size", _U),
        ("slot", _I),
        ("hva", _U),
        ("flags", _U),
        ("ref", _I),
        ("begin_us", _U),
    ]
)
"""One event. Addresses and sizes in bytes; `prot` in the bits of `s2pt.Prot`; times in microseconds.

`time_us` is the moment that orders the event: for `HANDLED` when the call returned, `begin_us` when it began.
"""

LEAF = np.dtype([("ipa", _U), ("size", _U), ("pa", _U), ("prot", _U), ("af", _U)])
"""One leaf of a dumped table: addresses and size in bytes, `prot` in the bits of `s2pt.Prot`, `af` 0 or 1."""


def as_words(records: npt.NDArray[np.void]) -> npt.NDArray[np.uint64]:
    """View an array of `EVENT` or `LEAF` as rows of 64-bit words, without a copy.

    Parameters
    ----------
    records : ndarray
        One-dimensional and contiguous.

    Returns
    -------
    ndarray of uint64, shape (len(records), fields)

    Examples
    --------
    >>> as_words(np.zeros(3, EVENT)).shape
    (3, 21)
    """
    if not isinstance(records, np.ndarray):
        raise TypeError(f"records must be a numpy array, not {type(records).__name__}")
    names = records.dtype.names or ()
    return records.view(np.dtype(_U)).reshape(len(records), len(names))
