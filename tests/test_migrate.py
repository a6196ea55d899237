"""Live migration from Python and from the command line."""

from __future__ import annotations

import json

import pytest

import s2pt
from s2pt import Migrate
from s2pt.cli.app import run

QUICK = {"memory": "2MiB", "vcpus": 2, "bandwidth": "512MiB", "warm_up_s": 0.001, "rounds": 3, "downtime_s": 0.0005}


@pytest.mark.parametrize("log", ["lazy", "eager", "hardware", "ring"])
@pytest.mark.parametrize("policy", ["serial", "parallel", "lockless"])
def test_nothing_is_lost(log: str, policy: str) -> None:
    seen: list[tuple[int, int]] = []
    report = Migrate(**QUICK, log=log, policy=policy, take_backs=200).run(
        progress=lambda *of: seen.append(of), poll_s=0.001
    )
    assert (report.lost_bytes, report.wrong_reads, report.violations) == (0, 0, 0)
    assert report.pages_sent == sum(entry.pages for entry in report.rounds) + report.last_pages >= 512
    assert report.latency.count == sum(count for _, count in report.latency_buckets)
    assert report.latency.p50_ns <= report.latency.p99_ns <= report.latency.p999_ns <= report.latency.max_ns
    assert (report.longest_hold_ns == 0) == (policy == "lockless")
    assert report.before.accesses > 0
    assert all(0 <= done <= total for done, total in seen)
    assert "lost bytes 0" in str(report)


@pytest.mark.parametrize("log", ["lazy", "eager", "ring"])
def test_faults_are_timed(log: str) -> None:
    # The first round alone takes half a second: on any machine the guest writes meanwhile, and each write faults.
    report = Migrate(**(QUICK | {"bandwidth": "4MiB", "rounds": 1}), log=log, write_percent=100).run()
    assert report.latency.count == sum(count for _, count in report.latency_buckets) > 0
    assert sum(report.faults.values()) >= report.latency.count
    assert report.latency.max_ns > 0


def test_what_is_done_too_early_is_found() -> None:
    report = Migrate(
        **QUICK, backing="pages", manual_protect=True, too_early=True, write_percent=100, hot_percent=0
    ).run()
    assert report.lost_bytes > 0


def test_wrong_options_are_refused() -> None:
    for wrong, match in [
        ({"vcpus": 0}, "vcpus is 0 "),
        ({"write_percent": 101}, "write percent"),
        ({"too_early": True}, "cleared by hand"),
        ({"log": "eager", "eager_chunk": 4096}, "smallest block"),
        ({"bandwidth": 1}, "bandwidth is 0x1"),
    ]:
        with pytest.raises(s2pt.S2ptError, match=match):
            Migrate(**(QUICK | wrong)).run()
    with pytest.raises(ValueError, match="log"):
        Migrate(**QUICK, log="paper").run()


def test_an_interrupt_ends_the_run() -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Migrate(**(QUICK | {"bandwidth": "1MiB"})).run(progress=interrupt, poll_s=0.001)


def test_the_command_compares_policies(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["-b", "2MiB", "--warm-up", "1ms", "--rounds", "2", "--bandwidth", "512MiB"]
    assert run(["migrate", *options, "--log", "lazy,hardware"]) == 0
    shown = capsys.readouterr().out
    assert "6 runs: 0 bytes lost, 0 wrong reads, 0 rules broken" in shown
    assert run(["migrate", *options, "--policy", "lockless", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["runs"][0]["lost_bytes"] == 0
    assert found["runs"][0]["options"]["policy"] == "lockless"
    broken = [*options, "-m", "--too-early", "-w", "100", "--hot-percent", "0", "-s", "pages", "--policy", "lockless"]
    assert run(["migrate", *broken]) == 1
    assert run(["migrate", "--log", "paper"]) == 2


@pytest.mark.parametrize("field", ["think_s", "downtime_s", "warm_up_s"])
@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1, -1e-9, 1e10])
def test_times_that_are_none_are_refused(field, seconds):
    with pytest.raises(s2pt.errors.OptionError, match=rf"{field} must be in 0\.\.9e\+09, not"):
        Migrate(**QUICK | {field: seconds}).job()
