"""Recorded runs of KVM's own stage-2 code, replayed on a table with ``semantics="kvm"``.

A recording says, operation by operation, what Linux 6.12's ``pgtable.c`` answered, which entries it left, how many
table frames it took and gave back, and which maintenance it asked for. The replay does the same on a `Stage2` and
compares all of that:

========================  ===========================================================================================
result                    the same errno, entry, level, number of frames left
entries                   the same checksum over every entry that is neither empty nor a table
frames                    as many taken, and as many freed, since the beginning
TLB invalidations         each of KVM's covered by one of ours, with its level or without a hint, on as many CPUs; each
                          break followed by one before its make; ours no more than KVM's
cache operations          all that KVM cleans is cleaned, all that it invalidates is invalidated; ours no more
end of the case           every leaf, every table with its number of entries, VTCR_EL2, no frame left over
========================  ===========================================================================================

With ``strict`` the invalidations and cache operations must be KVM's, one by one.

Where the library refuses what KVM lets pass, or does without a detour of KVM's, the difference has a name
(`DEVIATIONS`), and is counted under it. Nothing is skipped by that: KVM's effect is then brought about by other means
(the library's own operations, and `Stage2.poke` where no operation would do it), what KVM answered must be what the
deviation predicts, and entries and frames are compared as after any other operation, as is everything that follows.

KVM rounds its arguments to pages and this library refuses such arguments, so the replay rounds for it, in KVM's way. It
also makes the two checks that KVM makes before it rounds or that `map` cannot be asked for: an identity table's address
must be the physical one, and memory is not device and non-cacheable at once.

Use it as ``python -m s2pt.testing.kvm FILE...``; the exit status is 1 if there is any difference, 2 if a file is none.
"""

from s2pt.testing.kvm.case import Case, RecordingError, load
from s2pt.testing.kvm.deviations import DEVIATIONS, Deviation
from s2pt.testing.kvm.replay import Difference, Outcome, replay

__all__ = ["DEVIATIONS", "Case", "Deviation", "Difference", "Outcome", "RecordingError", "load", "replay"]
