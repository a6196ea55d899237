"""The trace reader on real guests: what it reads is enough to arrive at KVM's own tables, leaf by leaf."""

from __future__ import annotations

import csv
import lzma
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from trace_simulation import Result, simulate
from traces import DATA, GUESTS, SNAPSHOTS, guest, run

import s2pt.trace
from s2pt.trace import EVENT, EventFlag, Kind, Outcome, as_words
from s2pt.trace.sidecar import slot_events
from s2pt.trace.slots import Slots


@cache
def simulated(tag: str, sizes: str) -> Result:
    return simulate(guest(tag), sizes=sizes)


# --- what is in them -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "outcomes"),
    [
        ("thpoff_2vcpu", {"map 4K": 24540, "mmio": 15587, "relax": 201}),
        ("thpon_2vcpu", {"map 2M": 52, "map 2M, lost": 15, "mmio": 15587, "relax": 4}),
        (
            "migrate_2vcpu",
            {
                "map 2M": 55,
                "map 2M, lost": 16,
                "map 4K": 21205,
                "map 4K, lost": 19,
                "mmio": 16332,
                "relax": 1873,
                "retry": 32,
            },
        ),
    ],
)
def test_outcomes_are_those_that_the_data_states(tag: str, outcomes: dict[str, int]) -> None:
    trace = guest(tag)
    assert trace.outcomes() == outcomes
    assert trace.vcpus == 2
    assert trace.kernel == (6, 12)
    assert trace.has_calls
    assert trace.has_sizes
    assert trace.notes == ()


def test_all_three_hold_the_faults_that_the_data_states() -> None:
    assert sum(len(guest(tag).faults) for tag in GUESTS) == 95_518


@pytest.mark.parametrize("tag", GUESTS)
def test_every_fault_has_one_answer_that_comes_later(tag: str) -> None:
    events = guest(tag).events
    faults = np.flatnonzero(events["kind"] == Kind.FAULT)
    answers = events["ref"][faults]
    assert np.all(answers > faults)
    assert np.all(events["kind"][answers] == Kind.HANDLED)
    assert np.array_equal(events["ref"][answers], faults)
    for name in ("ipa", "esr", "far", "vcpu", "tid"):
        assert np.array_equal(events[name][answers], events[name][faults])
    assert np.all(events["begin_us"] <= events["time_us"])
    assert np.all(np.diff(events["time_us"].astype(np.int64)) >= 0)


@pytest.mark.parametrize("tag", GUESTS)
def test_table_calls_and_csv_tell_the_same(tag: str) -> None:
    """The csv was made by other code from the same kprobes."""
    trace = guest(tag)
    text = lzma.decompress((DATA / f"{tag}.faults.csv.xz").read_bytes()).decode()
    theirs = Counter(
        (row["tid"], row["ipa"], row["outcome"].split()[0], row["map_addr"], row["map_size"], row["map_pa"], row["ret"])
        for row in csv.DictReader(text.splitlines())
    )
    names = {Outcome.MAP: "map", Outcome.RELAX: "relax", Outcome.MMIO: "mmio", Outcome.RETRY: "no"}
    ours: Counter[tuple[str, ...]] = Counter()
    for row in trace.of_kind(Kind.HANDLED):
        mapped, called = row["outcome"] == Outcome.MAP, row["outcome"] in (Outcome.MAP, Outcome.RELAX)
        ours[
            str(row["tid"]),
            f"{row['ipa']:#x}",
            names[Outcome(row["outcome"])],
            f"{row['map_ipa']:#x}" if called else "",
            str(row["map_size"]) if mapped else "",
            f"{row['map_pa']:#x}" if mapped else "",
            str(row["ret"]) if called else "",
        ] += 1
    assert ours == theirs


@pytest.mark.parametrize("tag", ["thpon_2vcpu", "migrate_2vcpu"])
def test_notifier_ranges_translated_by_the_slots_are_the_ranges_that_kvm_unmapped(tag: str, tmp_path: Path) -> None:
    """Read once with the table calls, once without: the second translates host addresses by itself."""
    for path in DATA.glob(f"{tag}.*"):
        if ".pgt." not in path.name:
            (tmp_path / path.name).symlink_to(path)
    alone = s2pt.trace.read(tmp_path / tag)
    assert not alone.has_calls
    assert f"no {tag}.pgt.txt: faults take effect when they are raised" in alone.notes
    fields = ["ipa", "size", "slot", "tid"]
    notified = alone.of_kind(Kind.UNMAP)[fields].tolist()
    # The very first range stands before the VM has a table: KVM has nothing to call.
    assert notified[-len(guest(tag).of_kind(Kind.UNMAP)) :] == guest(tag).of_kind(Kind.UNMAP)[fields].tolist()
    assert alone.outcomes() == guest(tag).outcomes()


def test_own_copy_on_write_explains_every_retry() -> None:
    events = guest("migrate_2vcpu").events
    retries = events[(events["kind"] == Kind.HANDLED) & (events["outcome"] == Outcome.RETRY)]
    unmaps = events[(events["kind"] == Kind.UNMAP) & (events["flags"] & int(EventFlag.OWN_THREAD) != 0)]
    assert len(retries) == 32
    for retry in retries:
        own = unmaps[(unmaps["tid"] == retry["tid"]) & (unmaps["ipa"] >> 21 == retry["ipa"] >> 21)]
        assert len(own)


def test_words_are_the_records_themselves() -> None:
    events = guest("thpon_2vcpu").events
    words = as_words(events)
    assert words.shape == (len(events), len(EVENT.names or ()))
    assert np.shares_memory(words, events)
    assert np.array_equal(words[:, 1], events["kind"])


def test_slots_translate_outward_to_pages_and_only_what_they_hold() -> None:
    slots = Slots()
    timeline = [
        {"t": 1.0, "change": "CREATE", "slot": number, "flags": 0, "gpa": gpa, "size": size, "hva": hva}
        for number, (gpa, size, hva) in enumerate([("0x0", "0x10000", "0xf0000"), ("0x80000", "0x8000", "0x100000")])
    ]
    for event in slot_events("t", {"memslot_timeline": timeline}):
        slots.apply(event)
    assert list(slots.translate(0xE0000, 0xF0000, 4096)) == []
    found = [(slot.id, ipa, size) for slot, ipa, size in slots.translate(0xFF801, 0x100FFF, 4096)]
    assert found == [(0, 0xF000, 0x1000), (1, 0x80000, 0x1000)]
    found = [(slot.id, ipa, size) for slot, ipa, size in slots.translate(0, 1 << 48, 4096)]
    assert found == [(0, 0, 0x10000), (1, 0x80000, 0x8000)]


# --- the ground truth ----------------------------------------------------------------------------------------------

LEAVES = {"thpoff_2vcpu": [24538], "thpon_2vcpu": [52], "migrate_2vcpu": [8135, 19113]}


@pytest.mark.parametrize("sizes", ["calls", "rule"])
@pytest.mark.parametrize("tag", GUESTS)
def test_simulation_arrives_at_every_dumped_table(tag: str, sizes: str) -> None:
    """IPA, size, output address, permissions and access flag of every leaf, from recorded calls and from KVM's rule."""
    result = simulated(tag, sizes)
    assert [dump.theirs for dump in result.dumps] == LEAVES[tag]
    for dump in result.dumps:
        assert (dump.only_theirs, dump.only_ours, +dump.differ) == ([], [], Counter())
    assert result.levels["differ"] == (2 if tag == "migrate_2vcpu" else 0)
    assert result.counts["no address"] == 0


def test_level_differs_only_where_a_call_of_another_vcpu_was_in_flight() -> None:
    trace = guest("migrate_2vcpu")
    result = simulated("migrate_2vcpu", "calls")
    handled = trace.of_kind(Kind.HANDLED)
    for row in result.differing:
        fault = trace.events[row]
        same_block = handled[handled["map_ipa"] >> 21 == fault["ipa"] >> 21]
        flying = (same_block["begin_us"] <= fault["time_us"]) & (fault["time_us"] <= same_block["time_us"])
        assert np.any(flying & (same_block["vcpu"] != fault["vcpu"]))


def test_exact_split_differs_from_kvm_by_the_pages_that_it_keeps() -> None:
    result = simulate(guest("migrate_2vcpu"), sizes="calls", exact=True)
    assert [(len(dump.only_ours), dump.kept) for dump in result.dumps] == [(8729, 8729), (898, 898)]
    for dump in result.dumps:
        assert (dump.only_theirs, +dump.differ) == ([], Counter())
    assert result.levels["differ"] == 2


@pytest.mark.parametrize(
    ("prefix", "leaves", "differ"),
    [("k612_trace_thp", [30, 30, 683, 683, 915], 1), ("k612_trace_pt_thp", [24, 24, 1048, 1046], 3)],
)
def test_snapshot_runs_arrive_at_every_stage(prefix: str, leaves: list[int], differ: int) -> None:
    result = simulate(run(prefix), sizes="rule")
    assert [dump.theirs for dump in result.dumps] == leaves
    for dump in result.dumps:
        assert (dump.only_theirs, dump.only_ours, +dump.differ) == ([], [], Counter())
    # Nothing in these runs tells when a call returned, so a second fault on a block may look late.
    assert result.levels["differ"] == differ


def test_any_snapshot_or_the_prefix_names_the_run() -> None:
    one = s2pt.trace.read(SNAPSHOTS / "k612_trace_thp_iter1_cleared.json.xz")
    assert np.array_equal(one.events, run("k612_trace_thp").events)
    assert [dump.name for dump in one.dumps] == [
        "populated",
        "logging_enabled",
        "iter1_dirtied",
        "iter1_cleared",
        "iter2_dirtied",
    ]
    assert not one.has_sizes
    protected = one.of_kind(Kind.WRPROTECT)
    assert np.all(protected["flags"] & int(EventFlag.INFERRED))
