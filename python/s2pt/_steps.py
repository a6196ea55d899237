"""What is derived of a run's steps, the same for every report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["Foretold", "InSteps"]


class Foretold:
    """A step whose faults a formula may foretell."""

    __slots__ = ()

    handled: dict[str, int]
    expected: dict[str, int] | None

    @property
    def as_expected(self) -> bool | None:
        """Whether the faults were those of the formula; None without one."""
        return None if self.expected is None else self.expected == self.handled


class _Step(Protocol):
    @property
    def elapsed_ns(self) -> int: ...
    @property
    def as_expected(self) -> bool | None: ...


class InSteps:
    """A report step by step."""

    __slots__ = ()

    phases: Sequence[_Step]

    @property
    def elapsed_ns(self) -> int:
        """Wall time of all steps together."""
        return sum(step.elapsed_ns for step in self.phases)

    @property
    def as_expected(self) -> bool:
        """Whether every step that there is a formula for took the faults of it."""
        return all(step.as_expected is not False for step in self.phases)
