"""What steps cost: how it is said, and that it is paid. How often each is paid is counted in src/vm/cost.rs."""

from __future__ import annotations

import json
import pickle
import time

import numpy as np
import pytest

from s2pt import Cost, Costs, DirtyLog, Migrate, OptionError, Vm
from s2pt.cli.app import run

BASE = 0x4000_0000
PAGES = np.arange(BASE, BASE + 5 * 4096, 4096, dtype=np.uint64)


@pytest.mark.parametrize(
    ("text", "ns", "how", "shown"),
    [
        ("200us", 200_000, "sleep", "200us"), ("1.5us:spin", 1_500, "spin", "1500ns:spin"),
        ("3ms:sleep", 3_000_000, "sleep", "3ms"), ("0ns:spin", 0, "spin", "0ns"), (" 1s ", 10**9, "sleep", "1s"),
    ],
)  # fmt: skip
def test_a_cost_is_read_and_written(text: str, ns: int, how: str, shown: str) -> None:
    cost = Cost.parse(text)
    assert (cost.ns, cost.how, str(cost)) == (ns, how, shown)
    assert Cost.parse(str(cost)).ns == ns
    assert Costs(exit=text).exit == cost


@pytest.mark.parametrize("text", ["", "200", "200us:", "200us:nap", "spin", "200us spin", "-1us", "1us:spin:spin"])
def test_what_is_no_cost_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="is not a cost such as"):
        Cost.parse(text)
    with pytest.raises(OptionError, match="is not a cost such as"):
        Costs(cache=text)


def test_wrong_costs_are_refused() -> None:
    for wrong, error in [((-1,), OptionError), ((1.5,), TypeError), ((1, "nap"), ValueError), ((1, 2), TypeError)]:
        with pytest.raises(error):
            Cost(*wrong)
    with pytest.raises(TypeError, match="text must be str, not float"):
        Cost.parse(1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="exit must be a Cost or a text such as '200us', not int"):
        Costs(exit=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"costs must be an s2pt\.Costs"):
        Vm(costs=5)
    with pytest.raises(OptionError, match="exit 0x77359400 is beyond 0x3b9aca00, one second"):
        Vm(costs=Costs(exit="2s"))
    with pytest.raises(OptionError, match="both say what a TLBI costs"):
        Vm(stall_tlbi_ns=1, costs=Costs(tlbi="1ns"))
    assert pickle.loads(pickle.dumps(Migrate(costs=Costs(copy="1us")))).costs.copy.ns == 1000
    assert str(Costs()) == "nothing"


@pytest.mark.parametrize("how", ["sleep", "spin"])
@pytest.mark.parametrize("name", ["exit", "cache", "allocation", "tlbi"])
def test_a_vm_pays(name: str, how: str) -> None:
    vm = Vm(memory="2MiB", backing="pages", costs=Costs(**{name: f"2ms:{how}"}))
    before = vm.counts()
    start = time.monotonic_ns()
    faults = vm.touch(PAGES, "w")
    vm.take_back(BASE, 4096)
    took = time.monotonic_ns() - start
    now = vm.counts()
    assert before is not None
    assert now is not None
    counted = {kind: now[kind] - before[kind] for kind in now}
    events = {
        "exit": faults,
        "cache": counted["cache_data"] + counted["cache_instruction"],
        "allocation": counted["allocated"],
        "tlbi": sum(counted[kind] for kind in ("tlbi_ipa", "tlbi_range", "tlbi_local", "tlbi_vmid")),
    }
    assert events[name] >= (1 if name == "tlbi" else 2)
    assert took >= events[name] * 2_000_000


def test_a_run_pays() -> None:
    report = Vm(memory="2MiB", backing="pages", costs=Costs(exit="20us:spin")).run(DirtyLog())
    for phase in report.phases:
        assert phase.elapsed_ns >= 20_000 * sum(phase.faults.values())
    assert sum(report.phases[0].faults.values()) == 512


def test_a_migration_pays() -> None:
    report = Migrate(memory="2MiB", warm_up_s=0.001, rounds=2, costs=Costs(copy="50us", exit="1us:spin")).run()
    assert (report.lost_bytes, report.violations) == (0, 0)
    assert report.elapsed_ns >= 50_000 * report.pages_sent >= 50_000 * 512


def test_the_commands_say_what_was_paid(capsys: pytest.CaptureFixture[str]) -> None:
    log = [
        "dirty-log",
        "-b",
        "2MiB",
        "--policy",
        "lockless",
        "--exit-cost",
        "1us:spin",
        "--cache-cost",
        "10ns",
        "--spin",
    ]
    assert run([*log, "--allocation-cost", "1us:sleep", "--json"]) == 0
    options = json.loads(capsys.readouterr().out)["options"]
    nothing = {"ns": 0, "how": "spin"}
    assert options["costs"] == {
        "tlbi": nothing, "exit": {"ns": 1000, "how": "spin"}, "copy": nothing,
        "cache": {"ns": 10, "how": "spin"}, "allocation": {"ns": 1000, "how": "sleep"},
    }  # fmt: skip
    assert options["stall_tlbi_ns"] == 0
    assert run(log) == 0
    assert "Costs: exit 1us:spin, cache operation per 4KiB 10ns:spin\n" in capsys.readouterr().out
    small = ["migrate", "-b", "2MiB", "--warm-up", "1ms", "--policy", "lockless", "--copy-cost", "1us:spin"]
    assert run([*small, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["runs"]
    assert found["options"]["costs"]["copy"] == {"ns": 1000, "how": "spin"}
    assert found["options"]["costs"]["tlbi"] == {"ns": 0, "how": "sleep"}
    assert run(["migrate", "--copy-cost", "1us:nap"]) == 2
    assert "'1us:nap' is not a cost such as" in capsys.readouterr().err
    assert run(["dirty-log", "--exit-cost", "2s"]) == 2
    assert "one second" in capsys.readouterr().err
