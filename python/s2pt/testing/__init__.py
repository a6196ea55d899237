"""Hold an implementation of stage-2 tables against the model: Hypothesis strategies and a state machine.

Needs `hypothesis`. A test of one's own implementation is three lines:

    from s2pt.testing import make_machine
    Machine = make_machine(lambda config: MyTable(**config.keywords()))
    TestMyTable = Machine.TestCase
"""

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
