"""Sweep a migration over lock policies and kinds of dirty log, and draw what came out.

    python examples/sweep_policies.py migrations.svg
    python examples/sweep_policies.py migrations.svg --processes 4   # or a cluster, as below

On a Dask cluster the same sweep runs with ``sweep(options, Client(address).get_executor())``. Runs that share a machine
share its cores: compare times only of runs that had enough of them.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context

from s2pt import Migrate
from s2pt.lab import sweep
from s2pt.lab.plots import migrations, picture_format, save


def main() -> int:
    """Run the sweep, print a line for each run, draw them all."""
    parser = argparse.ArgumentParser(description="Sweep migrations over policies and logs.")
    parser.add_argument("picture", help="an .svg or .png file")
    parser.add_argument("--memory", default="16MiB")
    parser.add_argument("--bandwidth", default="256MiB")
    parser.add_argument("--processes", type=int, default=0, help="run so many at once (default: one by one, here)")
    chosen = parser.parse_args()
    picture_format(chosen.picture)

    options = [
        Migrate(memory=chosen.memory, bandwidth=chosen.bandwidth, downtime_s=0.005, log=log, policy=policy)
        for log, policy in product(("lazy", "eager", "ring"), ("serial", "parallel", "lockless"))
    ]
    if chosen.processes:
        with ProcessPoolExecutor(chosen.processes, mp_context=get_context("spawn")) as processes:
            reports = sweep(options, processes)
    else:
        reports = sweep(options)
    for one, report in zip(options, reports, strict=True):
        figures = f"downtime {report.downtime_ns / 1e6:.2f} ms, {report.pages_sent:,} pages sent"
        print(f"{one}: {figures}, guest slower {report.slowdown:.2f}x")
    save(migrations(list(zip(options, reports, strict=True))), chosen.picture)
    return int(any(report.lost_bytes for report in reports))


if __name__ == "__main__":
    raise SystemExit(main())
