"""The command ``python -m s2pt.testing.mmu``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import NoReturn

from s2pt.testing.mmu.campaign import RUNS
from s2pt.testing.mmu.judge import Report
from s2pt.testing.mmu.table import OracleError

_SHOWN = 10
"""Mismatches that are printed."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def _count(text: str) -> int:
    try:
        number = int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not 1 <= number <= 1 << 40:
        raise argparse.ArgumentTypeError(f"{number:#x} is not in 0x1..{1 << 40:#x}")
    return number


def _seed(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds") from None
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not more than 0 and at most 3600 seconds")
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m s2pt.testing.mmu",
        description="Compare our walks with an independent MMU. Exit code 1 on a mismatch, 2 on a wrong argument or an "
        "oracle that does not work.",
    )
    parser.add_argument("--oracle", choices=sorted(RUNS), default="unicorn", help="which MMU (default: %(default)s)")
    parser.add_argument("--seed", type=_seed, default=0, help="what to draw (default: %(default)s)")
    parser.add_argument("--probes", type=_count, default=100_000, help="how many at least (default: %(default)s)")
    parser.add_argument("--until-mismatch", action="store_true", help="stop at the first table with a mismatch")
    parser.add_argument("--timeout", type=_seconds, default=60.0, help="seconds for one table (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def _print(report: Report, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(report.as_dict()))
        return
    for mismatch in report.mismatches[:_SHOWN]:
        print(mismatch)
    print(report.summary())


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _parser().parse_args(arguments)
    on_terminal = sys.stderr.isatty() and not options.json

    def progress(report: Report) -> None:
        if on_terminal:
            print(f"\r{report.probes:,} probes, {report.mismatched} mismatches", end="", file=sys.stderr)

    try:
        report = RUNS[options.oracle](
            options.seed, options.probes, progress, until_mismatch=options.until_mismatch, timeout_s=options.timeout
        )
    except OracleError as error:
        print(f"python -m s2pt.testing.mmu: {error}", file=sys.stderr)
        return 2
    finally:
        if on_terminal:
            print("\r\x1b[K", end="", file=sys.stderr)
    try:
        _print(report, as_json=options.json)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough; the exit code still tells
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1 if report.mismatched else 0


if __name__ == "__main__":
    sys.exit(main())
