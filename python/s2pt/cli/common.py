"""What the subcommands share: sizes, times and lists as options, jobs with a progress bar, output."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from s2pt.errors import S2ptError
from s2pt.types import Policy, parse_size

__all__ = [
    "TLBIS",
    "Job",
    "console",
    "parse_list",
    "parse_numbers",
    "parse_policies",
    "parse_time",
    "print_json",
    "seconds",
    "size_option",
    "watch",
]

T = TypeVar("T")

POLL_SECONDS = 0.1
TLBIS = ("tlbi_ipa", "tlbi_range", "tlbi_local", "tlbi_vmid")  # one of stage 1 completes each of these
_UNITS_NS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
# More than 64 bits have; Python itself refuses to read thousands.
_DIGITS = 20
_TIME = re.compile(r"([0-9]{1,20})(?:\.([0-9]{1,9}))?\s*(ns|us|ms|s)")


class Job(Protocol):
    """A long run in Rust threads, as the extension module offers it."""

    def start(self) -> None: ...  # noqa: D102
    def wait(self, timeout_s: float) -> bool: ...  # noqa: D102
    def progress(self) -> tuple[int, int, str]: ...  # noqa: D102
    def cancel(self) -> None: ...  # noqa: D102
    def result(self) -> dict[str, Any]: ...  # noqa: D102


class _Console(Console):
    """A console that leaves it to the command what happens when the reader of its output has left."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def console() -> Console:
    """Give a console on standard output; without a terminal it is as wide as the text needs."""
    return _Console(soft_wrap=True) if sys.stdout.isatty() else _Console(soft_wrap=True, width=200)


def watch(job: Job, title: str) -> dict[str, Any]:
    """Run a job to its end, with a progress bar if standard error is a terminal; an interrupt stops its threads."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    job.start()
    try:
        with bar:
            task = bar.add_task(title, total=None)
            while not job.wait(POLL_SECONDS):
                done, total, phase = job.progress()
                bar.update(task, completed=done, total=total or None, description=f"{title} {phase}".rstrip())
    except BaseException:
        job.cancel()
        while not job.wait(POLL_SECONDS):
            pass
        raise
    return job.result()


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON document."""
    json.dump(value, sys.stdout, indent=2)
    print()


def seconds(elapsed_ns: int) -> str:
    """Write a time as KVM's self tests do: seconds, a point, nine digits.

    Examples
    --------
    >>> seconds(1_234_567), seconds(61_000_000_000)
    ('0.001234567s', '61.000000000s')
    """
    return f"{elapsed_ns // 10**9}.{elapsed_ns % 10**9:09}s"


# --- options ---------------------------------------------------------------------------------------------------------


def refuse(message: str) -> typer.BadParameter:
    """Give the exception that a wrong option ends with."""
    return typer.BadParameter(message)


def size_option(text: str) -> int:
    """Read a size; a mistake is a mistake in the option."""
    try:
        return parse_size(text)
    except S2ptError as error:
        raise refuse(str(error)) from None


def parse_list(texts: Sequence[str], read: Callable[[str], T]) -> list[T]:
    """Read lists with commas, given once or several times: each value once, in order."""
    found: list[T] = []
    for text in texts:
        for part in text.split(","):
            value = read(part.strip())
            if value not in found:
                found.append(value)
    return found


def parse_numbers(texts: Sequence[str]) -> list[int]:
    """Read whole numbers from 1 on.

    Examples
    --------
    >>> parse_numbers(["1,2", "8"])
    [1, 2, 8]
    """

    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or len(text) > _DIGITS or int(text) < 1:
            raise refuse(f"{text[:60]!r} is not a whole number from 1 on")
        return int(text)

    return parse_list(texts, read)


def parse_policies(texts: Sequence[str]) -> list[Policy]:
    """Read lock policies."""

    def read(text: str) -> Policy:
        try:
            return Policy(text)
        except ValueError as error:
            raise refuse(str(error)) from None

    return parse_list(texts, read)


def parse_time(text: str) -> int:
    """Read a time with its unit, in nanoseconds.

    Examples
    --------
    >>> parse_time("200us"), parse_time("1.5ms"), parse_time("0ns")
    (200000, 1500000, 0)
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise refuse(f"{text[:60]!r} is not a time such as 200us, 1.5ms or 1s")
    unit = _UNITS_NS[match[3]]
    return int(match[1]) * unit + int((match[2] or "0").ljust(9, "0")) * unit // 10**9
