"""From rates to times: a pass of N vCPUs, of which the first starts a little earlier than the last.

A pass can be 2**38 faults; the steady state is reached after a few. So the simulation measures the rate for 1, 2, 4,
and so on vCPUs until another doubling gains nothing, and the pass is a flow: at each moment the vCPUs on their way
share the rate of as many vCPUs evenly.

Examples
--------
>>> from s2pt.lab.costs import Demand, Machine
>>> from s2pt.types import Policy
>>> work = Demand(outside_ns=300, inside_ns=500, stall_ns=0, line_ns=50, bus_ns=0, host_line=False)
>>> rates = Rates.simulate(work, Machine(cores=2048), Policy.LOCKLESS, 1024)
>>> round(pass_seconds(rates, vcpus=1024, faults=2**28, start_s=0))
215
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass

from s2pt.lab.contention import rate
from s2pt.lab.costs import Demand, Machine
from s2pt.types import Policy

__all__ = ["SATURATED", "Rates", "pass_seconds"]

SATURATED = 1.02
"""Twice the vCPUs do less than so many times the work: something that they share is busy all the time."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Faults a nanosecond over the number of vCPUs on their way.

    Attributes
    ----------
    vcpus : tuple of int
        The numbers that were simulated, ascending from 1.
    rates : tuple of float
        The rate for each of them. Between two it is interpolated; beyond the last it stays.
    """

    vcpus: tuple[int, ...]
    rates: tuple[float, ...]

    @classmethod
    def simulate(
        cls, work: Demand, machine: Machine, policy: Policy, most: int, *, window: int = 40, seed: int = 1
    ) -> Rates:
        """Simulate up to a number of vCPUs; parameters as those of `rate`."""
        if machine.waits == "spin":
            most = min(most, machine.cores)
        if machine.waits == "spin" and policy is Policy.LOCKLESS and not work.host_line and not work.bus_ns:
            # They share nothing.
            one = rate(work, machine, policy, 1, window=window, seed=seed)
            return cls((1, most), (one, most * one)) if most > 1 else cls((1,), (one,))
        counts: list[int] = []
        rates: list[float] = []
        count = 1
        while True:
            counts.append(count)
            rates.append(rate(work, machine, policy, count, window=window, seed=seed))
            # Not from one to two: there the price of not being alone hides the gain.
            saturated = count > 2 and rates[-1] < SATURATED * rates[-2]
            if count == most or saturated:
                return cls(tuple(counts), tuple(rates))
            count = min(2 * count, most)

    def __call__(self, vcpus: int) -> float:
        """Give the rate of so many vCPUs together."""
        if vcpus >= self.vcpus[-1]:
            return self.rates[-1]
        right = bisect_left(self.vcpus, vcpus)
        if self.vcpus[right] == vcpus:
            return self.rates[right]
        low, high = self.vcpus[right - 1], self.vcpus[right]
        part = (vcpus - low) / (high - low)
        return self.rates[right - 1] * (1 - part) + self.rates[right] * part


def pass_seconds(rates: Rates, *, vcpus: int, faults: int, start_s: float) -> float:
    """Give the time of one pass.

    Parameters
    ----------
    rates : Rates
        Of the policy, the machine and the kind of fault.
    vcpus : int
        How many there are.
    faults : int
        Of each of them.
    start_s : float
        They start evenly spread over so many seconds (as N random ones would in the mean), beginning with the first.

    Returns
    -------
    float
        Seconds from the start of the first to the end of the last.
    """
    starts = deque(start_s * 1e9 * who / (vcpus + 1) for who in range(vcpus))
    ends: deque[float] = deque()  # in faults that each vCPU on its way has done since the pass began
    now = done = 0.0
    while starts or ends:
        until = starts[0] if starts else float("inf")
        if ends:
            each = rates(len(ends)) / len(ends)
            finished = now + (ends[0] - done) / each
            if finished <= until:
                now, done = finished, ends.popleft()
                continue
            done += (until - now) * each
        now = until
        starts.popleft()
        ends.append(done + faults)
    return now / 1e9
