"""Times of populate and dirty passes, with the range in which they are to be expected.

Examples
--------
>>> from s2pt.lab.calibrate import cover_letter
>>> few, many = predict(cover_letter(), vcpus=[1, 48], policies=["serial"], passes=["dirty"], memory="4GiB", draws=8)
>>> many.vcpus, many.faults
(48, 50331648)
>>> 0.8 < few.seconds < 1.0 < 20 < many.low < 30 < many.seconds < many.high
True
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import pvariance
from typing import Any

from s2pt._checks import check_integer, check_kind, check_type
from s2pt.errors import OptionError
from s2pt.lab.calibrate import MOST_DRAWS, MOST_SEED, Calibration
from s2pt.lab.costs import PASSES, Costs, Machine, Pass, Splits, Workload, check_pass, demand
from s2pt.lab.passes import Rates, pass_seconds
from s2pt.types import Backing, Policy, parse_size

__all__ = ["BAR", "Prediction", "predict"]

BAR = 1.645
"""Standard deviations on either side: nine times in ten lie between `low` and `high`, if errors are as assumed."""

DRAWN_WINDOW = 12
MOST_VCPUS = 1 << 16


@dataclass(frozen=True, slots=True)
class Prediction:
    """One time.

    Attributes
    ----------
    pass_ : {"populate", "dirty"}
        All memory is mapped for the first time; or written for the first time after it was write-protected.
    policy : Policy
        How faults lock the table.
    vcpus : int
        How many.
    faults : int
        Of all of them.
    seconds, low, high : float
        Wall time until the last vCPU is done, and between which times to expect it.
    """

    pass_: Pass
    policy: Policy
    vcpus: int
    faults: int
    seconds: float
    low: float
    high: float

    def as_dict(self) -> dict[str, Any]:
        """Give the fields for JSON."""
        fields = asdict(self)
        return {"pass": fields.pop("pass_"), **fields, "policy": self.policy.value}


def predict(
    calibration: Calibration,
    *,
    vcpus: Sequence[int],
    memory: int | str,
    backing: Backing | str = Backing.THP,
    policies: Iterable[Policy | str] = tuple(Policy),
    passes: Iterable[Pass] = PASSES,
    cores: int | None = None,
    splits: Splits | None = None,
    host_lock: bool | None = None,
    draws: int = 20,
    seed: int = 1,
) -> tuple[Prediction, ...]:
    """Predict how long passes take.

    Bars: the pass is simulated again with other costs, drawn from what the calibration knows of how sure they are, and
    other random numbers. The variance of the logarithm of its time, and that of the model's own error, add up.

    Parameters
    ----------
    calibration : Calibration
        What things cost.
    vcpus : sequence of int
        How many; several numbers, one prediction each.
    memory : int or str
        Of each vCPU.
    backing : Backing or str
        What backs it.
    policies : iterable of Policy or str
        How faults lock the table.
    passes : iterable of {"populate", "dirty"}
        Which ones.
    cores : int, optional
        If the machine had so many instead.
    splits : {"lazy", "exact"}, optional
        If blocks were split in this way instead.
    host_lock : bool, optional
        If faults took the lock of the host's memory map, or did not.
    draws : int
        How often each pass is simulated again for its bars.
    seed : int
        Of all random numbers. The same seed gives the same result.

    Returns
    -------
    tuple of Prediction
        By pass, then policy, then number of vCPUs as given.

    Raises
    ------
    OptionError
        A number is out of range.
    """
    check_type(calibration, Calibration, "calibration")
    vcpus = [check_integer(count, "vcpus", 1, MOST_VCPUS) for count in check_kind(vcpus, Iterable, "vcpus")]
    if not vcpus:
        raise OptionError("vcpus must be numbers from 1 on")
    check_integer(draws, "draws", 2, MOST_DRAWS)
    check_integer(seed, "seed", 0, MOST_SEED - MOST_DRAWS)
    if host_lock is not None:
        check_type(host_lock, bool, "host_lock")
    chosen = [Policy(policy) for policy in check_kind(policies, Iterable, "policies")]
    passes = [check_pass(pass_) for pass_ in check_kind(passes, Iterable, "passes")]
    machine = replace(calibration.machine, cores=calibration.machine.cores if cores is None else cores)
    work = Workload(parse_size(memory), Backing(backing), splits or calibration.splits)
    best = _with_host_lock(calibration.costs, host_lock)
    others = [_with_host_lock(costs, host_lock) for costs in calibration.draws(draws, seed)]
    found: list[Prediction] = []
    for pass_ in passes:
        for policy in chosen:
            times = _times(best, machine, work, pass_, policy, vcpus, seed=seed)
            drawn = [
                _times(costs, machine, work, pass_, policy, vcpus, window=DRAWN_WINDOW, seed=seed + 1 + number)
                for number, costs in enumerate(others)
            ]
            for index, (count, time) in enumerate(zip(vcpus, times, strict=True)):
                variance = pvariance(math.log(one[index]) for one in drawn) + calibration.model_error**2
                factor = math.exp(BAR * math.sqrt(variance))
                faults = count * work.faults(pass_)
                found.append(Prediction(pass_, policy, count, faults, time, time / factor, time * factor))
    return tuple(found)


def _with_host_lock(costs: Costs, host_lock: bool | None) -> Costs:
    return costs if host_lock is None else replace(costs, host_line=host_lock)


def _times(
    costs: Costs,
    machine: Machine,
    work: Workload,
    pass_: Pass,
    policy: Policy,
    vcpus: Sequence[int],
    *,
    window: int = 40,
    seed: int,
) -> list[float]:
    rates = Rates.simulate(demand(costs, machine, work, pass_), machine, policy, max(vcpus), window=window, seed=seed)
    faults = work.faults(pass_)
    return [pass_seconds(rates, vcpus=count, faults=faults, start_s=costs.start_s) for count in vcpus]
