"""The discrete-event simulation: vCPUs that fault one after the other, and what they have to wait for.

What is shared is a lock, a cache line or the memory bus, and each serves in order of arrival. How long a visit to a
line or the bus lasts is known when it begins, so these need no queue but the time at which they will be free.

- ``serial``: a fault owns the lock while it is inside. A lock that is handed to one who waits moves its line twice: the
  waiter sees that it is free, and takes it.
- ``parallel``: each fault writes the lock's line when it comes and when it goes. That moves the line if another core
  wrote it last, and the moves queue; with more readers more of them find it moved, and wait longer.
- ``lockless``: neither.

The simulation runs for a window of faults in the steady state and gives their rate; `s2pt.lab.passes` makes times
of it.

Examples
--------
An exclusive lock lets a fault through each time it is handed on, however many want one:

>>> from s2pt.lab.costs import Demand, Machine
>>> from s2pt.types import Policy
>>> work = Demand(outside_ns=300, inside_ns=500, stall_ns=0, line_ns=50, bus_ns=0, host_line=False)
>>> alone = rate(work, Machine(cores=8), Policy.SERIAL, vcpus=1)
>>> crowd = rate(work, Machine(cores=8), Policy.SERIAL, vcpus=8)
>>> round(1 / alone, -2), round(1 / crowd, -2)
(800.0, 600.0)
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import simpy

from s2pt.lab.costs import Demand, Machine
from s2pt.types import Policy

__all__ = ["SPREAD", "rate"]

SPREAD = 0.5
"""Work of a fault lies within so much of its mean, evenly. Assumed; it keeps the vCPUs from marching in step."""

WARM_UP = 5
"""Faults of each vCPU before rates are measured."""

FEW = 40
"""So many vCPUs have enough faults in a window for a mean."""

Steps = Generator[simpy.Event, Any, None]


@dataclass(slots=True)
class _Server:
    """Serves one after the other. If the service is to hand something over, who has it pays nothing."""

    free_at: float = 0.0
    last: int = -1

    def visit(self, now: float, who: int, service: float, *, moves: bool = True) -> float:
        """Give the time that a visit takes, waiting included."""
        if moves and self.last == who:
            service = 0.0
        self.last = who
        self.free_at = max(now, self.free_at) + service
        return self.free_at - now


@dataclass(slots=True)
class _Run:
    """One simulation: the vCPUs, what they share, and how many faults are done."""

    env: simpy.Environment
    work: Demand
    policy: Policy
    random: Random
    cores: simpy.Resource | None
    lock: simpy.Resource
    lock_line: _Server = field(default_factory=_Server)
    host_line: _Server = field(default_factory=_Server)
    bus: _Server = field(default_factory=_Server)
    done: int = 0

    def vcpu(self, who: int, reached: dict[int, simpy.Event]) -> Steps:
        """Fault for ever."""
        outside, inside = self.work.outside_ns, self.work.inside_ns
        yield self.env.timeout(self._about(outside + inside) * self.random.random())
        while True:
            # What the core does is on either side of the host's lock.
            yield from self._compute(self._about(outside) / 2)
            if self.work.host_line:
                yield from self._touch(self.host_line, who)
            if self.work.bus_ns:
                yield self.env.timeout(self.bus.visit(self.env.now, who, self.work.bus_ns, moves=False))
            yield from self._compute(self._about(outside) / 2)
            if self.work.host_line:
                yield from self._touch(self.host_line, who)
            if self.policy is Policy.SERIAL:
                yield from self._exclusive(who)
            else:
                yield from self._shared(who)
            self.done += 1
            if self.done in reached:
                reached[self.done].succeed()

    def _shared(self, who: int) -> Steps:
        if self.policy is Policy.PARALLEL:
            yield from self._touch(self.lock_line, who)
        yield from self._inside()
        if self.policy is Policy.PARALLEL:
            yield from self._touch(self.lock_line, who)

    def _exclusive(self, who: int) -> Steps:
        waited = self.lock.count > 0
        with self.lock.request() as mine:
            yield mine
            moves = 2 if waited else 1
            yield from self._touch(self.lock_line, who, moves)
            yield from self._inside()

    def _inside(self) -> Steps:
        yield from self._compute(self._about(self.work.inside_ns))
        if self.work.stall_ns:
            yield self.env.timeout(self.work.stall_ns)

    def _touch(self, line: _Server, who: int, moves: int = 1) -> Steps:
        delay = line.visit(self.env.now, who, moves * self.work.line_ns)
        if delay:
            yield self.env.timeout(delay)

    def _compute(self, ns: float) -> Steps:
        if self.cores is None:
            yield self.env.timeout(ns)
        else:
            with self.cores.request() as core:
                yield core
                yield self.env.timeout(ns)

    def _about(self, mean: float) -> float:
        return mean * (1 + SPREAD * (2 * self.random.random() - 1))


def rate(work: Demand, machine: Machine, policy: Policy, vcpus: int, *, window: int = 40, seed: int = 1) -> float:
    """Simulate vCPUs that fault without end, and measure how many faults they get done.

    Parameters
    ----------
    work : Demand
        What a fault asks for.
    machine : Machine
        Where they run. Where waiters spin, a vCPU keeps its core, so that no more of them run than there are cores.
    policy : Policy
        How the table is locked.
    vcpus : int
        How many, all of them all the time.
    window : int
        Faults of each vCPU that are measured, in the mean; in all at least as many as `FEW` vCPUs would have.
    seed : int
        Of the random numbers; the same one gives the same result.

    Returns
    -------
    float
        Faults a nanosecond, of all vCPUs together.
    """
    spins = machine.waits == "spin"
    running = min(vcpus, machine.cores) if spins else vcpus
    env = simpy.Environment()
    cores = None if spins else simpy.Resource(env, machine.cores)
    run = _Run(env, work, policy, Random(seed), cores, simpy.Resource(env, 1))
    first = WARM_UP * running
    last = first + window * max(running, FEW)
    reached = {count: env.event() for count in (first, last)}
    for who in range(running):
        env.process(run.vcpu(who, reached))
    env.run(until=reached[first])
    start = env.now
    env.run(until=reached[last])
    return (last - first) / (env.now - start)
