"""Whether some order of concurrent operations explains what they returned.

A `History` says who called what, when, and what came back. `check` looks for an order of the operations in which each
takes effect at one moment between its call and its return, and in which `s2pt.model.ModelStage2`, doing the same one
after the other, gives the same results. If there is none, the answer shows the operations that overlap and do not fit.

The table does not promise that an operation on a range is one step: each page is (docs/design.md). So it is one step
on each of its pages, at moments of their own, and its result must be what the pages add up to. A `map` with
``existing="error"`` that is refused at a page has found holes at those before it, and filled none. With KVM's semantics
alone one thing more is allowed: it may have filled them, and emptied them again.

    from s2pt import Stage2
    from s2pt.testing import linearizability

    history = linearizability.record(Stage2(stall_tlbi_ns=1), threads=4, operations=50, pages=4, seed=1)
    verdict = linearizability.check(history)
    assert verdict, verdict.counterexample

Histories of `s2pt.Stage2` are recorded by native threads; those of anything else with the methods of
`s2pt.testing.Adapter` by threads of Python. A `History` can also be made by hand, of what another program recorded.
"""

from __future__ import annotations

from s2pt.testing.linearizability.check import Verdict, check
from s2pt.testing.linearizability.history import History, Leaf, Operation
from s2pt.testing.linearizability.record import record

__all__ = ["History", "Leaf", "Operation", "Verdict", "check", "record"]
