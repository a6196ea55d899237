"""Many runs, one after the other or wherever an executor runs them."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor
from operator import methodcaller
from typing import Any, Protocol, TypeVar

from s2pt._checks import check_kind, check_type

__all__ = ["sweep"]


Report = TypeVar("Report", covariant=True)


class Runnable(Protocol[Report]):
    """A run by itself: `s2pt.Migrate`, `s2pt.trace.Replay`, those of `s2pt.workloads`."""

    def run(self) -> Report: ...


def sweep(options: Iterable[Runnable[Report]], executor: Executor | None = None) -> list[Report]:
    """Run migrations, replays or other workloads, and give their reports in the same order.

    Options and reports can be pickled, so that processes and clusters serve as well as threads. A run keeps
    ``vcpus`` cores busy: where times matter, no more runs than fit should share a machine.

    Parameters
    ----------
    options : iterable
        What to run: `s2pt.Migrate`, `s2pt.trace.Replay`, the workloads of `s2pt.workloads`.
    executor : concurrent.futures.Executor, optional
        Where: threads, processes, the ``get_executor()`` of a Dask client. None: here, one after the other.

    Raises
    ------
    S2ptError
        The first run that failed, in order; those that have not begun are cancelled.

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> from s2pt import Migrate
    >>> small = [Migrate(memory="2MiB", warm_up_s=0.001, policy=policy) for policy in ("serial", "lockless")]
    >>> with ThreadPoolExecutor(2) as threads:
    ...     [report.lost_bytes for report in sweep(small, threads)]
    [0, 0]
    """
    runs = [_run(one) for one in check_kind(options, Iterable, "options")]
    if executor is None:
        return [one.run() for one in runs]
    return list(check_type(executor, Executor, "executor").map(methodcaller("run"), runs))


def _run(one: Any) -> Any:
    if isinstance(one, type) or not callable(getattr(one, "run", None)):
        raise TypeError(f"each of options must be something to run, not {type(one).__name__}")
    return one
