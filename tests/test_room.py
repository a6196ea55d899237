"""A run that would fill the machine's memory is refused before it begins; one that only counts large memory is not."""

from __future__ import annotations

import os
import re

import pytest

from s2pt import DirtyLog, Migrate, OptionError, Vm
from s2pt.cli.app import run
from s2pt.workloads import AccessTracking, DemandPaging, Memslots, PageTable

# More than machines have on which tests run: for the bytes themselves, or with 8 bytes for each page of them.
BYTES = {"bytes_per_vcpu": "4TiB", "vcpus": 2}
PAGES = {"bytes_per_vcpu": "4TiB", "vcpus": 32}
pytestmark = pytest.mark.skipif(
    os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") > 240 << 30, reason="there is room for it"
)

FILLS = {
    "demand paging": DemandPaging(**BYTES),
    "demand paging from a supplier": DemandPaging(**BYTES, supply="missing", backing="pages"),
    "slots, map": Memslots(bytes_per_vcpu="4TiB", test="map"),
    "slots, unmap": Memslots(bytes_per_vcpu="4TiB", test="unmap"),
    "slots, rw": Memslots(bytes_per_vcpu="4TiB", test="rw"),
    "a migration": Migrate(memory="4TiB"),
    "tables of pages": AccessTracking(**PAGES, backing="pages"),
    "tables of broken blocks": PageTable(bytes_per_vcpu="128TiB", vcpus=1),
}
DOES_NOT = {
    "blocks that stay whole": AccessTracking(bytes_per_vcpu="1TiB", backing="1g"),
    "a slot that is moved": Memslots(bytes_per_vcpu="4TiB", test="move-active"),
    "little": DemandPaging(bytes_per_vcpu="1MiB"),
}


@pytest.mark.parametrize("name", FILLS)
def test_a_run_that_fills_the_machine_is_refused(name: str) -> None:
    with pytest.raises(OptionError) as refused:
        FILLS[name].job()
    told = re.fullmatch(
        r"the run would take (\d+) MiB of memory \((\d+) for the guest's bytes, (\d+) for tables, "
        r"(\d+) for dirty logs\), and (\d+) MiB are available",
        str(refused.value),
    )
    assert told, refused.value
    all_, guest, tables, logs, available = map(int, told.groups())
    assert all_ == guest + tables + logs > available > 0
    assert (guest > 0) == ("tables" not in name)
    if isinstance(FILLS[name], Migrate):
        assert guest == 2 * (4 << 20)  # source and destination
    assert (logs > 0) == isinstance(FILLS[name], Migrate | PageTable)
    if "tables" in name:
        assert tables == 256 << 10  # 8 bytes for each page


@pytest.mark.parametrize("name", DOES_NOT)
def test_a_run_that_touches_little_is_not_refused(name: str) -> None:
    DOES_NOT[name].job()


def test_a_dirty_log_is_refused_by_the_pages_that_it_would_map() -> None:
    vm = Vm("128TiB", backing="1g", ipa_bits=48)
    for wrong in (DirtyLog(), DirtyLog(log="eager", write_percent=0), DirtyLog(write_percent=1)):
        with pytest.raises(OptionError, match=r"\(0 for the guest's bytes, 262144 for tables, 8192 for dirty logs\)"):
            vm.run(wrong)


def test_what_rings_and_what_is_taken_out_of_them_take_is_counted() -> None:
    vm = Vm("128TiB", backing="thp", ipa_bits=48, dirty_ring=65536)
    # 16 bytes for each page that is written to, a ring of 512 KiB for each vCPU, and a bitmap.
    for percent, random, taken in ((100, False, 512 << 10), (50, False, 256 << 10), (100, True, 320 << 10)):
        wrong = DirtyLog(log="ring", manual_protect=False, vcpus=2, write_percent=percent, random=random)
        with pytest.raises(OptionError, match=r"262144 for tables, (\d+) for dirty logs\)") as refused:
            vm.run(wrong)
        told = re.search(r"(\d+) for dirty logs", str(refused.value))
        assert told
        assert int(told[1]) == pytest.approx(taken + 1 + (4 << 10), abs=1)


@pytest.mark.parametrize(
    "command",
    [
        ["demand-paging", "-b", "4TiB"], ["memslot", "-b", "4TiB"], ["dirty-log", "-b", "4TiB", "-v", "32"],
        ["access-tracking", "-b", "4TiB", "-v", "32"], ["page-table", "-b", "128TiB"], ["migrate", "-b", "4TiB"],
    ],
)  # fmt: skip
def test_the_commands_refuse_too(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.match(r"s2pt: error: the run would take \d+ MiB of memory ", err)
