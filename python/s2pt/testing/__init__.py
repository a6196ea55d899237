"""Hold an implementation of stage-2 tables against the model: Hypothesis strategies and a state machine.

Needs `hypothesis`, which is imported when it is first used: `s2pt.testing.kvm` does without. A test of one's own
implementation is three lines:

    from s2pt.testing import make_machine
    Machine = make_machine(lambda config: MyTable(**config.keywords()))
    TestMyTable = Machine.TestCase
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from s2pt.testing import strategies
    from s2pt.testing.adapter import Adapter, Call, Factory, ModelAdapter, Stage2Adapter, TableConfig
    from s2pt.testing.machine import Stage2Machine, make_machine, outcome

__all__ = [
    "Adapter",
    "Call",
    "Factory",
    "ModelAdapter",
    "Stage2Adapter",
    "Stage2Machine",
    "TableConfig",
    "make_machine",
    "outcome",
    "strategies",
]

_HOMES = {
    "machine": ("Stage2Machine", "make_machine", "outcome"),
    "adapter": ("Adapter", "Call", "Factory", "ModelAdapter", "Stage2Adapter", "TableConfig"),
}


def __getattr__(name: str) -> object:
    """Import what is asked for."""
    if name == "strategies":
        return import_module("s2pt.testing.strategies")
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"s2pt.testing.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
