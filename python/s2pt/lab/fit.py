"""Costs fitted to some of the cover letter's figures: least squares over the logarithms of times and of costs.

Needs SciPy. What it finds is kept in ``data/fitted.json``; ``python -m s2pt.lab`` finds it again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from s2pt.lab.costs import Costs, demand
from s2pt.lab.letter import MACHINE, WORK, Figure
from s2pt.lab.passes import Rates, pass_seconds

__all__ = ["FITTED_COSTS", "NOISE", "Fit", "fit", "letter_seconds"]

FITTED_COSTS = ("outside_ns", "inside_ns", "line_ns", "fill_ns", "clean_ns", "bandwidth_gbs", "start_s")
"""Seven costs; the others of `Costs` are assumed, and hardly matter to the letter's figures."""

NOISE = 0.05
"""Standard deviation of a measured time from run to run, relative. Assumed; to it comes the rounding to hundredths."""

WINDOW = 60
STEP = 0.05

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Fit:
    """What was found.

    Attributes
    ----------
    costs : Costs
        The best ones.
    covariance : array of float64
        Of the logarithms of `FITTED_COSTS`, from `NOISE` in the figures that were fitted.
    """

    costs: Costs
    covariance: Floats


def letter_seconds(costs: Costs, given: tuple[Figure, ...], *, window: int = WINDOW, seed: int = 1) -> list[float]:
    """Predict figures of the letter.

    Parameters
    ----------
    costs : Costs
        Of the letter's machine.
    given : tuple of Figure
        Which figures; their times are not looked at.
    window, seed : int
        As `s2pt.lab.contention.rate` takes them.

    Returns
    -------
    list of float
        Seconds, one for each figure.
    """
    rates: dict[tuple[str, str], Rates] = {}
    times = []
    for figure in given:
        key = figure.pass_, figure.policy.value
        if key not in rates:
            most = max(other.vcpus for other in given if (other.pass_, other.policy.value) == key)
            asked = demand(costs, MACHINE, WORK, figure.pass_)
            rates[key] = Rates.simulate(asked, MACHINE, figure.policy, most, window=window, seed=seed)
        faults = WORK.faults(figure.pass_)
        times.append(pass_seconds(rates[key], vcpus=figure.vcpus, faults=faults, start_s=costs.start_s))
    return times


def first_guess() -> Costs:
    """Costs of the right order: a cached page fault, a cache line between cores, memory at tens of GB a second."""
    return Costs(
        outside_ns=500, inside_ns=500, line_ns=100, fill_ns=50e3, clean_ns=50e3, bandwidth_gbs=100, start_s=0.1
    )


def fit(given: tuple[Figure, ...], *, window: int = WINDOW) -> Fit:
    """Fit `FITTED_COSTS` to those figures that are marked as fitted; the others are not looked at.

    Parameters
    ----------
    given : tuple of Figure
        The letter's figures.
    window : int
        As `s2pt.lab.contention.rate` takes it.

    Returns
    -------
    Fit
    """
    from scipy.optimize import least_squares

    base = first_guess()
    used = tuple(figure for figure in given if figure.fitted)
    measured = np.log([figure.seconds for figure in used])

    def errors(logs: Floats) -> Floats:
        costs = with_logs(base, logs)
        return cast(Floats, np.log(letter_seconds(costs, used, window=window)) - measured)

    found: Any = least_squares(errors, logs_of(base), diff_step=STEP, max_nfev=12, xtol=1e-3, ftol=1e-4)
    rounding = np.array([0.01 / 12**0.5 / figure.seconds for figure in used])
    inverse = np.linalg.pinv(found.jac, rcond=1e-2)
    covariance = inverse @ np.diag(NOISE**2 + rounding**2) @ inverse.T
    return Fit(with_logs(base, found.x), covariance)


def logs_of(costs: Costs) -> Floats:
    """Give the logarithms of the fitted costs."""
    return np.log([getattr(costs, name) for name in FITTED_COSTS])


def with_logs(costs: Costs, logs: Floats) -> Costs:
    """Give costs with other fitted ones."""
    fitted: dict[str, Any] = {name: float(np.exp(log)) for name, log in zip(FITTED_COSTS, logs, strict=True)}
    return replace(costs, **fitted)
