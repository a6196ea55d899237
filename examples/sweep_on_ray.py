"""Run a sweep on a Ray cluster, by an executor of a few lines: Ray has none of its own.

    pip install ray
    python examples/sweep_on_ray.py              # a cluster of one node, here
    python examples/sweep_on_ray.py --address auto   # the one that this node belongs to

Every node needs s2pt. Runs that share a node share its cores: ``--cpus`` is what Ray keeps free for one of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import ray

from s2pt import Migrate
from s2pt.lab import sweep


def call(function: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
    """Call whatever can be called; a Ray task is made of plain functions alone."""
    return function(*args, **options)


class RayExecutor(Executor):
    """Runs calls as Ray tasks, each with so many CPUs to itself."""

    def __init__(self, cpus: int = 1) -> None:
        self.cpus = cpus

    def submit(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        """Start a task; its object reference is known as a future of the standard library."""
        task = ray.remote(num_cpus=self.cpus)(call)
        future: Future[Any] = task.remote(function, *args, **options).future()
        return future


def main() -> int:
    """Sweep policies and seeds, and print a line for each run."""
    parser = argparse.ArgumentParser(description="Sweep migrations on a Ray cluster.")
    parser.add_argument("--address", help="of the cluster; by default one is started here")
    parser.add_argument("--cpus", type=int, default=1, help="that a run has to itself")
    chosen = parser.parse_args()
    ray.init(address=chosen.address, include_dashboard=False)
    options = [
        Migrate(memory="4MiB", policy=policy, seed=seed) for policy in ("serial", "lockless") for seed in range(3)
    ]
    reports = sweep(options, RayExecutor(chosen.cpus))
    for one, report in zip(options, reports, strict=True):
        print(f"{one}, seed {one.seed}: {report.pages_sent:,} pages sent, {report.lost_bytes} bytes lost")
    ray.shutdown()
    return int(any(report.lost_bytes for report in reports))


if __name__ == "__main__":
    raise SystemExit(main())
