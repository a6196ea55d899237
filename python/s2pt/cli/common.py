"""What the subcommands share: sizes, times and lists as options, jobs with a progress bar, output."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TypeVar

import typer
from rich.console import Console

from s2pt import _running, costs
from s2pt._running import Job
from s2pt.errors import S2ptError
from s2pt.types import Policy, parse_size

__all__ = [
    "INTERRUPTED",
    "TLBIS",
    "Job",
    "UntilInterrupted",
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
INTERRUPTED = 130  # what shells give for SIGINT
TLBIS = ("tlbi_ipa", "tlbi_range", "tlbi_local", "tlbi_vmid")  # one of stage 1 completes each of these
# More than 64 bits have; Python itself refuses to read thousands.
_DIGITS = 20


class _Console(Console):
    """A console that leaves it to the command what happens when the reader of its output has left."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def console() -> Console:
    """Give a console on standard output; without a terminal it is as wide as the text needs."""
    return _Console(soft_wrap=True) if sys.stdout.isatty() else _Console(soft_wrap=True, width=200)


def watch(job: Job, title: str, keep: Callable[[dict[str, Any]], object] = lambda result: None) -> dict[str, Any]:
    """Run a job to its end, with a progress bar if standard error is a terminal, and `keep` what it found.

    An interrupt ends it early; what it found up to there is kept then, too, and the interrupt raised again.
    """
    try:
        result = _running.run(job, dict, True, POLL_SECONDS, title)
    except KeyboardInterrupt as interrupt:
        if (found := getattr(interrupt, "report", None)) is not None:
            keep(found)
        raise
    keep(result)
    return result


class UntilInterrupted:
    """A context that an interrupt ends without ending the command, which has something to tell yet.

    Attributes
    ----------
    seen : bool
        Whether there was one.
    """

    seen = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self.seen = kind is not None and issubclass(kind, KeyboardInterrupt)
        return self.seen

    def check(self, kept: Sequence[object]) -> None:
        """End the command all the same if nothing was kept."""
        if self.seen and not kept:
            raise KeyboardInterrupt

    def code(self, otherwise: int = 0) -> int:
        """Give the exit code, which is that of an interrupt if there was one."""
        return INTERRUPTED if self.seen else otherwise


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
    """Read a time with its unit, in nanoseconds; a mistake is a mistake in the option.

    Examples
    --------
    >>> parse_time("200us"), parse_time("1.5ms"), parse_time("0ns")
    (200000, 1500000, 0)
    """
    try:
        return costs.parse_time(text)
    except S2ptError as error:
        raise refuse(str(error)) from None
