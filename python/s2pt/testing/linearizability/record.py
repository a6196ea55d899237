"""Histories of real threads."""

from __future__ import annotations

import sys
from itertools import count
from random import Random
from threading import Barrier, Thread
from typing import Any

from s2pt._core import Stage2
from s2pt.errors import ConflictError, S2ptError
from s2pt.testing.adapter import Adapter, Call, TableConfig
from s2pt.testing.linearizability.history import History, Leaf, Operation
from s2pt.types import Access, Changed, Existing, Mapped, MemType, Prot, Translation

__all__ = ["record"]

# As `src/history.rs` numbers them.
_WHAT = (
    *("map", "unmap", "protect", "write_protect", "relax", "mark_young", "test_young", "test_and_clear_young"),
    *("split", "collapse", "translate", "read"),
)
_RAISED = (None, "Again", "ConflictError", "NotMappedError", "TranslationFault", "PermissionFault", "AccessFlagFault")
_EXISTING = (Existing.REPLACE, Existing.KEEP, Existing.ERROR)
_ACCESS = (Access.READ, Access.WRITE)
_MAPPED = 1 << 32


def record(
    table: Stage2 | Adapter,
    *,
    threads: int = 4,
    operations: int = 50,
    pages: int = 4,
    seed: int = 0,
    blocks: bool = False,
    ipa: int = 0x4000_0000,
    config: TableConfig | None = None,
) -> History:
    """Let several threads do random operations on a few pages of a table, and return what happened.

    Parameters
    ----------
    table : Stage2 or Adapter
        An empty table. With a sink that takes its time threads meet inside of operations: ``Stage2(stall_tlbi_ns=1)``.
    threads, operations : int
        How many threads, and operations of each.
    pages : int
        How many pages they share.
    seed : int
        Determines what each thread does; when it does it is up to the machine.
    blocks : bool
        Whether the pages are parts of a block that is mapped whole, cut and merged all the time (`Stage2` only).
    ipa : int
        Where the pages are; aligned to a block.
    config : TableConfig, optional
        What table it is, for an adapter; of a `Stage2` it is asked.

    Returns
    -------
    History
        With ``threads * operations`` operations, and the one that maps the block.

    Examples
    --------
    >>> history = record(Stage2(), threads=2, operations=10, pages=2, seed=7)
    >>> len(history.operations), [hex(page) for page in history.pages]
    (20, ['0x40000000', '0x40001000'])
    """
    if not isinstance(table, Stage2):
        if blocks:
            raise ValueError("blocks=True needs a Stage2")
        return _by_python(table, threads, operations, pages, seed, ipa, config or TableConfig())
    shape = table.geometry
    rows = table._record(ipa, pages=pages, threads=threads, operations=operations, seed=seed, blocks=blocks)
    ha = bool(table.vtcr >> 21 & 1)
    config = TableConfig(shape.ipa_bits, shape.granule, shape.pa_bits, lpa2=shape.lpa2, ha=ha)
    judged = [ipa + page * shape.granule for page in range(pages)]
    return History([_operation(*row) for row in rows.tolist()], judged, config, blocks)


def _operation(
    thread: int,
    invoked: int,
    returned: int,
    what: int,
    ipa: int,
    size: int,
    pa: int,
    prot: int,
    software: int,
    option: int,
    status: int,
    first: int,
    second: int,
) -> Operation:
    """Make an operation of a row of numbers."""
    name = _WHAT[what]
    value: Any = None
    if name == "map":
        call = Call(name, ipa, size, pa, Prot(prot), existing=_EXISTING[option], software=software)
    elif name in ("protect", "relax"):
        call = Call(name, ipa, size, Prot(prot))
    elif name == "test_and_clear_young":
        call = Call(name, ipa, size, bool(option))
    elif name == "translate":
        call = Call(name, ipa, _ACCESS[option])
    else:
        call = Call(name, ipa) if name == "read" else Call(name, ipa, size)
    raised = _RAISED[status]
    if raised is not None:
        return Operation(thread, invoked, returned, call, ("raised", raised, *([first] if status == 2 else [])))
    if name == "map":
        value = Mapped(first, second)
    elif name in ("protect", "write_protect", "relax", "mark_young"):
        value = Changed(second, first)
    elif name in ("test_young", "test_and_clear_young"):
        value = bool(first)
    elif name == "translate":
        value = Translation(first, 3, Prot(second), MemType.NORMAL)
    elif name != "read":
        value = first
    elif second & _MAPPED:
        value = Leaf(first, Prot(second & 0xFF), bool(second >> 8 & 1), second >> 16 & 0xFF)
    return Operation(thread, invoked, returned, call, ("returned", value))


def _by_python(
    table: Adapter, threads: int, operations: int, pages: int, seed: int, ipa: int, config: TableConfig
) -> History:
    """Record with threads of Python, which change places as often as the interpreter can be told to."""
    clock, page = count(), config.granule
    history: list[Operation] = []
    failed: list[BaseException] = []
    barrier = Barrier(threads)

    def work(me: int) -> None:
        random = Random(seed << 16 | me)
        try:
            barrier.wait()
            for _ in range(operations):
                call = _random_call(random, ipa, pages, page)
                invoked = next(clock)
                result = _result(table, call, page)
                history.append(Operation(me, invoked, next(clock), call, result))
        except BaseException as error:
            failed.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        workers = [Thread(target=work, args=(me,)) for me in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(interval)
    if failed:
        raise failed[0]
    return History(history, [ipa + page * index for index in range(pages)], config)


def _random_call(random: Random, base: int, pages: int, page: int) -> Call:
    some = min(random.choice((1, 1, 1, 2, 3, pages)), pages)
    ipa, size = base + random.randrange(pages - some + 1) * page, some * page
    prot = random.choice((Prot.RW, Prot.R))
    name = random.choice(("map", "map", "map", "read", "read", "unmap", *_WHAT))
    if name == "map":
        pa, existing = ipa + (1 << 33) + random.randrange(2) * (2 << 20), random.choice(_EXISTING)
        return Call(name, ipa, size, pa, prot, existing=existing, software=random.randrange(2))
    if name in ("protect", "relax"):
        return Call(name, ipa, size, prot)
    if name == "translate":
        return Call(name, ipa, random.choice(_ACCESS))
    return Call(name, ipa) if name == "read" else Call(name, ipa, size)


def _result(table: Adapter, call: Call, page: int) -> tuple[Any, ...]:
    try:
        if call.name != "read":
            return "returned", call.on(table)
        ipa = int(call.args[0])
        found = next(iter(table.leaves(ipa, page)), None)
        return "returned", found and Leaf(found.pa + ipa - found.ipa, found.prot, found.af, found.software)
    except ConflictError as error:
        return "raised", type(error).__name__, error.ipa
    except S2ptError as error:
        return "raised", type(error).__name__
