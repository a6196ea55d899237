"""How Python waits for a run in threads of its own: progress, end, and what there is of one that was ended early."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeAlias, TypeVar

from s2pt._checks import check_real
from s2pt.errors import OptionError

__all__ = ["Job", "Progress", "bar", "run"]

R = TypeVar("R")

Progress: TypeAlias = Callable[[int, int], object] | bool | None
"""What a caller may want to know meanwhile: a function of the steps done and in all, True for a bar, or nothing."""


class Job(Protocol):
    """A long run in Rust threads, as the extension module offers it."""

    def start(self) -> None: ...
    def wait(self, timeout_s: float) -> bool: ...
    def progress(self) -> tuple[int, int, str]: ...
    def cancel(self) -> None: ...
    def result(self) -> dict[str, Any]: ...


def run(
    job: Job,
    make: Callable[[dict[str, Any]], R],
    progress: Progress = None,
    poll_s: float = 0.05,
    title: str = "",
) -> R:
    """Run a job to its end and make a report of what it found.

    If `progress` returns False the job is asked to end, and the report is of what there was up to there. An exception
    in the waiting thread, Ctrl-C first of all, does so too; it is raised again with that report as its attribute
    ``report``.
    """
    check_real(poll_s, "poll_s", 0, float("inf"))
    with _shown(progress, title) as show:
        job.start()
        try:
            while not job.wait(poll_s):
                if show is not None and show(*job.progress()) is False:
                    job.cancel()
                    show = None
        except BaseException as error:
            job.cancel()
            while not job.wait(poll_s):
                pass
            # If the job failed as well, the first exception is the one to tell of.
            with contextlib.suppress(Exception):
                error.report = make(job.result())  # type: ignore[attr-defined]
            raise
    return make(job.result())


_Show: TypeAlias = Callable[[int, int, str], object]


@contextlib.contextmanager
def _shown(progress: Progress, title: str) -> Iterator[_Show | None]:
    if not (progress is None or isinstance(progress, bool) or callable(progress)):
        raise TypeError(f"progress must be a function, True or None, not {type(progress).__name__}")
    if progress is True:
        with bar(title) as show:
            yield show
    elif callable(progress):
        told = progress
        yield lambda done, total, step: told(done, total)
    else:
        yield None


@contextlib.contextmanager
def bar(title: str, *, quiet: bool = False) -> Iterator[_Show]:
    """Draw a progress bar on standard error; `quiet`: draw none."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "rich":
            raise
        raise OptionError("a progress bar needs rich; install it with: pip install 's2pt[cli]'") from None
    drawn = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=quiet or not sys.stderr.isatty(),
    )
    with drawn:
        task = drawn.add_task(title, total=None)

        def show(done: int, total: int, step: str) -> None:
            text = f"{title} {step}".strip()
            drawn.update(task, completed=done, total=total or None, description=text)

        yield show
