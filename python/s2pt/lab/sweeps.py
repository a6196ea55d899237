"""Many migrations, one after the other or wherever an executor runs them."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor

from s2pt._checks import check_each, check_type
from s2pt.migrate import Migrate, MigrateReport

__all__ = ["sweep"]


def sweep(options: Iterable[Migrate], executor: Executor | None = None) -> list[MigrateReport]:
    """Run migrations, and give their reports in the same order.

    Options and reports can be pickled, so that processes and clusters serve as well as threads. A run keeps
    ``vcpus`` cores busy: where times matter, no more runs than fit should share a machine.

    Parameters
    ----------
    options : iterable of Migrate
        What to run.
    executor : concurrent.futures.Executor, optional
        Where: threads, processes, the ``get_executor()`` of a Dask client. None: here, one after the other.

    Raises
    ------
    S2ptError
        The first run that failed, in order; those that have not begun are cancelled.

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> small = [Migrate(memory="2MiB", warm_up_s=0.001, policy=policy) for policy in ("serial", "lockless")]
    >>> with ThreadPoolExecutor(2) as threads:
    ...     [report.lost_bytes for report in sweep(small, threads)]
    [0, 0]
    """
    runs = check_each(options, Migrate, "options")
    if executor is None:
        return [one.run() for one in runs]
    return list(check_type(executor, Executor, "executor").map(Migrate.run, runs))
