"""From a log to steps."""

from __future__ import annotations

from s2pt.errors import RecordingError
from s2pt.events import Event
from s2pt.recording.casemate.line import PAGE, Line, parse
from s2pt.recording.setup import Setup
from s2pt.types import Geometry

__all__ = ["read"]

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
