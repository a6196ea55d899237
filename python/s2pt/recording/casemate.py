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

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from s2pt.errors import RecordingError
from s2pt.events import Event
from s2pt.recording.order import arrange
from s2pt.recording.setup import VALID, Setup
from s2pt.types import Geometry

__all__ = ["Line", "parse", "read", "write"]

PAGE: Final = 4096
SRC: Final = '(src "s2pt:0")'


# --- writing ---------------------------------------------------------------------------------------------------------


def write(events: Sequence[Event], setup: Setup, local: str = "refuse") -> str:
    """Write steps as a log; see `s2pt.recording.Recording.casemate`."""
    _refuse(setup)
    if local not in ("refuse", "leave-out"):
        raise RecordingError(f"local is {local!r}, not 'refuse' or 'leave-out'")
    if not any(event.kind == "allocate" and event.fields["frame"] == setup.root for event in events):
        raise RecordingError("a log for casemate begins with the table, and this recording does not")
    writer = _Writer(setup, local)
    for event in arrange(events, setup).events:
        writer.step(event)
    return "".join(writer.lines)


def _refuse(setup: Setup) -> None:
    shape = setup.geometry
    if shape.granule != PAGE:
        raise RecordingError(f"casemate knows the 4K granule alone, not {shape.granule >> 10}K")
    if shape.lpa2:
        raise RecordingError("casemate does not know LPA2")
    if shape.root_frames != 1:
        raise RecordingError(f"casemate knows roots of one frame, not of {shape.root_frames}")


def _vtcr(shape: Geometry) -> int:
    """T0SZ, SL0, the 4K granule, and write-back walks."""
    return 1 << 31 | 64 - shape.ipa_bits | (2 - shape.start_level) << 6 | 1 << 8 | 1 << 10 | 3 << 12


class _Writer:
    def __init__(self, setup: Setup, local: str) -> None:
        self.setup = setup
        self.leave_out = local == "leave-out"
        self.lines: list[str] = []
        self.ready: set[int] = set()
        self.root = False
        self.broken: dict[int, int] = {}  # table entries that are broken, and by whom
        self.private: dict[int, list[Event]] = {}

    def put(self, thread: int, name: str, words: str = "") -> None:
        gap = " " if words else ""
        self.lines.append(f"({name} (id {len(self.lines):x}) (tid {thread:x}){gap}{words} {SRC})\n")

    def registers(self, thread: int) -> None:
        """Say under which table a thread works, before anything that depends on it."""
        if self.root and thread not in self.ready:
            self.ready.add(thread)
            vttbr = self.setup.root | self.setup.vmid << 48
            self.put(thread, "sysreg-write", f"(sysreg vtcr_el2) (value {_vtcr(self.setup.geometry):#x})")
            self.put(thread, "sysreg-write", f"(sysreg vttbr_el2) (value {vttbr:#x})")

    def step(self, event: Event) -> None:
        kind, thread, fields = event.kind, event.thread, event.fields
        if kind in ("publish", "dsb"):
            self.barrier(event, "ishst" if kind == "publish" else str(fields["domain"]))
        elif kind == "isb":
            self.put(thread, "barrier", "isb")
        elif kind.startswith("tlbi_"):
            self.tlbi(event)
        elif kind == "allocate":
            frame = _number(event, "frame")
            self.put(thread, "mem-init", f"(address {frame:#x}) (size {PAGE:#x})")
            if frame == self.setup.root:
                self.root = True
                self.registers(thread)
        elif kind == "fill":
            first, step, entry = _number(event, "first"), _number(event, "step"), _number(event, "entry")
            for index in range(_number(event, "count")):
                self.write(thread, "plain", entry + 8 * index, (first + index * step) % (1 << 64))
        elif kind == "store":
            self.registers(thread)
            entry, old, new = _number(event, "entry"), _number(event, "old"), _number(event, "new")
            # At level 3 the two bits mean a page: then a range is written for more than it is.
            if old & 3 == 3 and not new & VALID:
                self.broken[entry] = thread
            elif new & VALID or not old & VALID:
                self.broken.pop(entry, None)
            # A compare-exchange is one access, and orders what came before; so does a make.
            self.write(thread, "release" if fields.get("release") else "plain", entry, new)
        elif kind == "free":
            self.put(thread, "mem-free", f"(address {_number(event, 'frame'):#x}) (size {PAGE:#x})")

    def write(self, thread: int, order: str, entry: int, value: int) -> None:
        self.put(thread, "mem-write", f"(mem-order {order}) (address {entry:#x}) (value {value:#x})")

    def barrier(self, event: Event, domain: str) -> None:
        if domain.startswith("nsh"):
            return self.one_cpu(event, f"DSB {domain.upper()}")
        return self.put(event.thread, "barrier", f"dsb (kind {domain})")

    def one_cpu(self, event: Event, what: str) -> None:
        if not self.leave_out:
            raise RecordingError(
                f"step {event.sequence}: {what} is of one CPU, and casemate knows broadcast ones alone"
            )

    def tlbi(self, event: Event) -> None:
        kind, thread, fields = event.kind, event.thread, event.fields
        if fields.get("scope", "broadcast") != "broadcast":
            return self.one_cpu(event, kind)
        self.registers(thread)
        level = fields.get("level")
        if kind == "tlbi_stage1":
            return self.put(thread, "tlbi", "vmalle1is")
        table = kind == "tlbi_range" and level is None and thread in self.broken.values()
        if kind == "tlbi_vmid" or table:
            return self.put(thread, "tlbi", "vmalls12e1is")
        # Bits 47:46 say the granule and 45:44 the level, if there is a hint.
        hint = (0b0100 | level) << 44 if isinstance(level, int) and 0 <= level <= 3 else 0
        ipa, step = _number(event, "ipa") & -PAGE, PAGE
        end = ipa + (_number(event, "pages") if kind == "tlbi_range" else 1) * PAGE
        if hint and isinstance(level, int) and kind == "tlbi_range":
            step = self.setup.geometry.size(level)
        while ipa < end:
            self.put(thread, "tlbi", f"ipas2e1is (value {hint | ipa >> 12:#x})")
            ipa = (ipa | step - 1) + 1
        return None


def _number(event: Event, name: str) -> int:
    value = event.fields.get(name)
    if not isinstance(value, int):
        raise RecordingError(f"step {event.sequence} ({event.kind}) has no {name}")
    return value


# --- reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a log.

    Attributes
    ----------
    name : str
        What it is.
    id, tid : int
        Its number and its thread.
    words : tuple of str
        What stands without a name, as the operation of a TLBI.
    fields : dict of str to str
        What has one, as written; `number` reads it.
    number_of : int
        The line in the file, counted from 1.
    """

    name: str
    id: int
    tid: int
    words: tuple[str, ...]
    fields: dict[str, str]
    number_of: int = 0

    def number(self, name: str) -> int:
        """Read a field in hex."""
        text = self.fields.get(name)
        if text is None:
            raise RecordingError(f"{self.name} has no {name}", line=self.number_of)
        return _hex(text, self.number_of)

    def __str__(self) -> str:
        parts = [self.name, f"(id {self.id:x})", f"(tid {self.tid:x})", *self.words]
        parts += [f"({name} {value})" for name, value in self.fields.items()]
        return f"({' '.join(parts)})"


_HEX = re.compile(r"(0x)?[0-9a-fA-F]{1,16}")
_TOKEN = re.compile(r'\s*(?:([()])|("[^"]*")|([^\s()"]+))')


def _hex(text: str, line: int) -> int:
    if not _HEX.fullmatch(text):
        raise RecordingError(f"{text!r} is no number", line=line)
    return int(text, 16)


def parse(text: str) -> Iterator[Line]:
    """Read the lines of a log.

    Raises
    ------
    RecordingError
        A line is no S-expression of this form.

    Examples
    --------
    >>> [line] = parse('(tlbi (id 1f) (tid 0) ipas2e1is (value 0x80000) (src "a.c:1"))')
    >>> line.name, line.id, line.words, hex(line.number("value"))
    ('tlbi', 31, ('ipas2e1is',), '0x80000')
    """
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _line(line, number)


def _line(text: str, number: int) -> Line:
    tokens: list[str] = []
    at = 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise RecordingError("an unfinished text", line=number)
        tokens.append(match[1] or match[2] or match[3])
        at = match.end()
    if len(tokens) < 3 or tokens[0] != "(" or tokens[-1] != ")" or tokens[1] in "()":
        raise RecordingError("a line is (name (field value)...)", line=number)
    name, words, fields = tokens[1], [], {}
    at = 2
    while at < len(tokens) - 1:
        if tokens[at] != "(":
            if tokens[at] == ")":
                raise RecordingError("a parenthesis too many", line=number)
            words.append(tokens[at])
            at += 1
            continue
        if at + 3 >= len(tokens) or tokens[at + 3] != ")" or tokens[at + 1] in "()" or tokens[at + 2] in "()":
            raise RecordingError("a field is (name value)", line=number)
        if tokens[at + 1] in fields:
            raise RecordingError(f"{tokens[at + 1]} is there twice", line=number)
        fields[tokens[at + 1]] = tokens[at + 2]
        at += 4
    for needed in ("id", "tid"):
        if needed not in fields:
            raise RecordingError(f"{name} has no {needed}", line=number)
    ids = _hex(fields.pop("id"), number), _hex(fields.pop("tid"), number)
    return Line(name, *ids, tuple(words), fields, number)


PASSED_OVER = ("mem-read", "hint", "lock", "trylock", "unlock")


def read(text: str) -> tuple[Setup, list[Event], int]:
    """Read a log as steps, for the checker of this library.

    The table is that of the first vttbr_el2. What is written to frames that are not in its tree yet is taken for the
    preparation of a table, whoever does it.
    """
    lines = list(parse(text))
    if not lines:
        raise RecordingError("the file is empty")
    return _Reader(lines).setup_and_events()


class _Reader:
    def __init__(self, lines: list[Line]) -> None:
        self.lines = lines
        self.events: list[Event] = []
        self.memory: dict[int, int] = {}
        self.owners: dict[int, int] = {}  # frames that are out, and by whom they were taken
        self.live: dict[int, int] = {}  # tables in the tree, and their levels
        self.setup = self._setup()

    def _setup(self) -> Setup:
        ipa_bits, start = 48, 0
        for line in self.lines:
            if line.name == "sysreg-write" and line.fields.get("sysreg") == "vtcr_el2":
                vtcr = line.number("value")
                ipa_bits, start = 64 - (vtcr & 63), 2 - (vtcr >> 6 & 3)
                if not 16 <= ipa_bits <= 48 or start < 0 or vtcr >> 14 & 3 or vtcr >> 32 & 1:
                    raise RecordingError(
                        f"{vtcr:#x} is no vtcr_el2 of the 4K granule without LPA2", line=line.number_of
                    )
                break
        for line in self.lines:
            if line.name == "sysreg-write" and line.fields.get("sysreg") == "vttbr_el2":
                vttbr = line.number("value")
                bits = ipa_bits - 12 - 9 * (4 - start - 1)
                root_frames = 1 << max(0, bits - 9)
                geometry = Geometry(PAGE, ipa_bits, 48, start, root_frames)
                return Setup(geometry, vttbr & (1 << 48) - PAGE, vttbr >> 48, source="casemate", tlbi_range=False)
        raise RecordingError("no thread writes vttbr_el2, so there is no table")

    def step(self, line: Line, kind: str, **fields: int | str | bool | None) -> None:
        self.events.append(Event(len(self.events), line.tid, kind, fields))

    def setup_and_events(self) -> tuple[Setup, list[Event], int]:
        for line in self.lines:
            self.line(line)
        return self.setup, self.events, 0

    def line(self, line: Line) -> None:
        match line.name:
            case "mem-init" | "mem-free":
                for frame in self.frames(line):
                    if self.in_root(frame) and frame != self.setup.root:
                        continue  # comes with the first
                    if line.name == "mem-init":
                        self.owners[frame] = line.tid
                        self.step(line, "allocate", frame=frame)
                    else:
                        self.owners.pop(frame, None)
                        self.step(line, "free", frame=frame)
            case "mem-write":
                self.write(
                    line, line.number("address"), line.number("value"), line.fields.get("mem-order") == "release"
                )
            case "mem-set":
                for frame in self.frames(line):
                    for entry in range(frame, frame + PAGE, 8):
                        if self.memory.get(entry, 0) != line.number("value"):
                            self.write(line, entry, line.number("value"), False)
            case "barrier":
                self.barrier(line)
            case "tlbi":
                self.tlbi(line)
            case "sysreg-write":
                if line.fields.get("sysreg") == "vttbr_el2":
                    root = line.number("value") & (1 << 48) - PAGE
                    if root != self.setup.root:
                        raise RecordingError(f"a second table, {root:#x}: one table a log", line=line.number_of)
                    self.begin(line)
            case name if name in PASSED_OVER:
                pass
            case name:
                raise RecordingError(f"{name!r} is no line that is known", line=line.number_of)

    def in_root(self, frame: int) -> bool:
        return 0 <= frame - self.setup.root < self.setup.geometry.root_frames * PAGE

    def frames(self, line: Line) -> range:
        address, size = line.number("address"), line.number("size")
        if address % PAGE or size % PAGE or size > 1 << 24:
            raise RecordingError(f"{address:#x} +{size:#x} is no run of frames", line=line.number_of)
        return range(address, address + size, PAGE)

    def begin(self, line: Line) -> None:
        """Put the root into use: what was prepared in it appears."""
        if self.setup.root not in self.live:
            frames = self.setup.geometry.root_frames
            for entry in range(self.setup.root, self.setup.root + frames * PAGE, 8):
                if value := self.memory.get(entry, 0):
                    self.step(line, "store", entry=entry, old=0, new=value, release=True)
            for each in range(frames):
                self.enter(self.setup.root + each * PAGE, self.setup.geometry.start_level)

    def enter(self, frame: int, level: int) -> None:
        """Note that a table and all below it is in the tree."""
        if frame in self.live:
            return
        self.live[frame] = level
        for entry in range(frame, frame + PAGE, 8):
            value = self.memory.get(entry, 0)
            if self.setup.is_table(value, level):
                self.enter(self.setup.address(value), level + 1)

    def write(self, line: Line, entry: int, value: int, release: bool) -> None:
        if entry % 8:
            raise RecordingError(f"{entry:#x} is not aligned to 8", line=line.number_of)
        frame, old = entry & -PAGE, self.memory.get(entry, 0)
        self.memory[entry] = value
        if frame in self.live:
            self.step(line, "store", entry=entry, old=old, new=value, release=release)
            if self.setup.is_table(value, self.live[frame]):
                self.enter(self.setup.address(value), self.live[frame] + 1)
        elif self.in_root(frame):
            pass  # told when it is in use
        elif frame in self.owners:
            fields = {"entry": entry, "count": 1, "first": value, "step": 0}
            event = Event(len(self.events), self.owners[frame], "fill", fields)
            self.events.append(event)
        else:
            raise RecordingError(f"{entry:#x} is written, which no mem-init told of", line=line.number_of)

    def barrier(self, line: Line) -> None:
        if line.words == ("isb",):
            self.step(line, "isb")
        elif line.words == ("dsb",) and "kind" in line.fields:
            # The full system is more than the inner shareable domain.
            kind = {"sy": "ish", "st": "ishst"}.get(line.fields["kind"], line.fields["kind"])
            self.step(line, "dsb", domain=kind)
        else:
            raise RecordingError("a barrier is isb, or dsb with its kind", line=line.number_of)

    def tlbi(self, line: Line) -> None:
        match line.words:
            case ("vmalls12e1is",):
                self.step(line, "tlbi_vmid")
            case ("vmalle1is",):
                self.step(line, "tlbi_stage1", scope="broadcast")
            case ("vmalle1",):
                self.step(line, "tlbi_stage1", scope="local")
            case (("ipas2e1is" | "ipas2e1") as name,):
                value = line.number("value")
                level = value >> 44 & 3 if value >> 46 & 3 else None
                scope = "broadcast" if name.endswith("is") else "local"
                self.step(line, "tlbi_ipa", ipa=(value & (1 << 36) - 1) << 12, level=level, scope=scope)
            case _:
                pass  # of another regime
