"""Records as they are made: put in order, given their fields, and told what host memory lies behind each fault."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from s2pt.trace.events import EVENT, EventFlag, Kind, Outcome
from s2pt.trace.host import HostMemory
from s2pt.trace.sidecar import Dump, TableShape

__all__ = ["Key", "Row", "to_records"]

Key = tuple[int, int]
"""Place of a record: the item that caused it, and its rank within that item."""


@dataclass(slots=True)
class Row:
    """One record while it is made: its place, and the fields that are not zero."""

    key: Key
    kind: Kind
    time_us: int
    fields: dict[str, int] = field(default_factory=dict)
    partner: Row | None = None


def to_records(rows: Sequence[Row], dumps: Sequence[Dump], shape: TableShape, huge: bool) -> npt.NDArray[np.void]:
    """Sort the rows by their place and lay them out as `EVENT` records."""
    ordered = sorted(rows, key=lambda row: row.key)
    place = {id(row): index for index, row in enumerate(ordered)}
    records = np.zeros(len(ordered), EVENT)
    for name in EVENT.names or ():
        if name not in ("time_us", "kind", "begin_us", "ref", "pa", "host_size"):
            default = -1 if name == "slot" else 0
            records[name] = [row.fields.get(name, default) for row in ordered]
    records["time_us"] = [row.time_us for row in ordered]
    records["begin_us"] = [row.fields.get("begin_us", row.time_us) for row in ordered]
    records["kind"] = [row.kind for row in ordered]
    records["ref"] = [place[id(row.partner)] if row.partner else row.fields.get("ref", -1) for row in ordered]
    _fill_backing(ordered, records, dumps, shape, huge)
    return records


def _fill_backing(
    rows: Sequence[Row], records: npt.NDArray[np.void], dumps: Sequence[Dump], shape: TableShape, huge: bool
) -> None:
    """Work out `pa` and `host_size` of each fault, in the order of time."""
    host = HostMemory(shape.page_size, shape.block_size, huge)
    next_dump = 0
    found: dict[int, tuple[int, int, int]] = {}
    for index, row in enumerate(rows):
        fields = row.fields
        if row.kind is Kind.DUMP:
            next_dump += 1
        elif row.kind is Kind.UNMAP:
            host.taken_back(fields["ipa"], fields["size"])
        elif (row.kind is Kind.HANDLED or row.kind is Kind.MAP) and fields.get("outcome") != Outcome.MMIO:
            later = dumps[next_dump].pagemap if next_dump < len(dumps) else None
            at = fields.get("ipa", fields.get("map_ipa", 0))
            size = fields.get("map_size", 0)
            # A call that maps other pages tells nothing of this one.
            covered = 0 <= at - fields.get("map_ipa", 0) < size
            recorded = fields["map_pa"] + at - fields["map_ipa"] if fields.get("map_pa") and covered else None
            pa, host_size, read_only = host.look(at, recorded, later)
            if recorded is not None and fields.get("ret", 0) == 0:
                host.mapped(fields["map_ipa"], size, fields["map_pa"])
            flags = (EventFlag.NO_PA if pa is None else 0) | (EventFlag.HOST_READ_ONLY if read_only else 0)
            found[index] = (pa or 0, host_size, flags)
            if row.kind is Kind.MAP and recorded is None and pa is not None:
                records["map_pa"][index] = pa
    # A fault and its handling, each of which names the other, have the same page behind them.
    places = np.fromiter(found, np.intp, len(found))
    told = np.array(list(found.values()), np.uint64).reshape(-1, 3)
    handled = records["kind"][places] == Kind.HANDLED
    faults = records["ref"][places[handled]].astype(np.intp)
    for rows_at, values in ((places, told), (faults, told[handled])):
        records["pa"][rows_at], records["host_size"][rows_at] = values[:, 0], values[:, 1]
        records["flags"][rows_at] |= values[:, 2]
