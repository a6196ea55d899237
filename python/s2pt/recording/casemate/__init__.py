"""casemate's logs: written from a recording, and read.

casemate (rems-project) checks the page-table discipline of hypervisors. Its log is one S-expression a line,

    (name (id N) (tid N) words and (field value)... (src "file:line"))

with numbers in hex, with or without 0x. What is written here, and what is read:

| line | fields | step |
|---|---|---|
| mem-init | address, size | a frame is taken; it reads as zeros |
| mem-write | mem-order plain or release, address, value | an entry is written |
| mem-free | address, size | a frame goes back |
| mem-set | address, size, value | memory is overwritten: read, never written |
| barrier | dsb and its kind, or isb | |
| tlbi | the operation's name; value (IPA >> 12, level hint in bits 47:44) for those by address | |
| sysreg-write | sysreg, value | vtcr_el2 and vttbr_el2 of a thread before its first step |
| mem-read, hint, lock, trylock, unlock | | read past |

casemate knows the 4K granule, broadcast TLBIs, roots of one frame whose level follows from the size of the IPA
space, and no range TLBIs: a range is written as single operations, one a leaf where the level is known, else one a
page; where a table entry is broken as VMALLS12E1IS, since nothing less is enough for it there. It runs with `-R`: a
protocol of compare-exchanges has no lock for each entry.
"""

from __future__ import annotations

from s2pt.recording.casemate.line import Line, parse
from s2pt.recording.casemate.read import read
from s2pt.recording.casemate.write import write

__all__ = ["Line", "parse", "read", "write"]
