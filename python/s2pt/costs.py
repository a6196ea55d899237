"""What steps cost on the machine that is simulated, beside what they take here: nothing, or a wait.

Examples
--------
>>> costs = Costs(tlbi="200us", exit="1.5us:spin")
>>> costs.tlbi, costs.exit.how, costs.allocation.ns
(Cost('200us'), 'spin', 0)
>>> print(costs)
TLBI 200us, exit 1500ns:spin
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Literal

from s2pt._checks import check_integer, check_type
from s2pt.errors import OptionError

__all__ = ["Cost", "Costs", "parse_time"]

_HOW: dict[str, Literal["sleep", "spin"]] = {"sleep": "sleep", "spin": "spin"}
_UNITS_NS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
# More than 64 bits have; Python itself refuses to read thousands.
_TIME = re.compile(r"([0-9]{1,20})(?:\.([0-9]{1,9}))?\s*(ns|us|ms|s)")


def parse_time(text: str) -> int:
    """Read a time with its unit, in nanoseconds.

    Raises
    ------
    OptionError
        It is none.

    Examples
    --------
    >>> parse_time("200us"), parse_time("1.5ms"), parse_time("0ns")
    (200000, 1500000, 0)
    """
    match = _TIME.fullmatch(check_type(text, str, "text").strip())
    if match is None:
        raise OptionError(f"{text[:60]!r} is not a time such as 200us, 1.5ms or 1s")
    unit = _UNITS_NS[match[3]]
    return int(match[1]) * unit + int((match[2] or "0").ljust(9, "0")) * unit // 10**9


@dataclass(frozen=True, slots=True, repr=False)
class Cost:
    """What one step costs.

    Attributes
    ----------
    ns : int
        Nanoseconds; 0: nothing.
    how : str
        ``"sleep"``: the thread gives up its core, so that many can wait on few cores (with the system's slack,
        some 50 us). ``"spin"``: it burns its core, which is exact, and honest only with a core for each thread.
    """

    ns: int = 0
    how: Literal["sleep", "spin"] = "sleep"

    def __post_init__(self) -> None:
        object.__setattr__(self, "ns", check_integer(self.ns, "ns", 0, 2**64 - 1))
        if check_type(self.how, str, "how") not in _HOW:
            raise ValueError(f"how must be one of 'sleep', 'spin', not {self.how[:60]!r}")

    @classmethod
    def parse(cls, text: str, how: Literal["sleep", "spin"] = "sleep") -> Cost:
        """Read a time that may say how to wait: ``"200us"``, ``"1.5us:spin"``.

        Parameters
        ----------
        text : str
            What to read.
        how : str
            How to wait if the text does not say it.

        Raises
        ------
        OptionError
            It is no cost.

        Examples
        --------
        >>> Cost.parse("2us:spin")
        Cost('2us:spin')
        >>> Cost.parse("2us:nap")
        Traceback (most recent call last):
            ...
        s2pt.errors.OptionError: '2us:nap' is not a cost such as 200us, 200us:sleep or 1.5us:spin
        """
        time, colon, said = check_type(text, str, "text").partition(":")
        wrong = f"{text[:60]!r} is not a cost such as 200us, 200us:sleep or 1.5us:spin"
        try:
            ns = parse_time(time)
        except OptionError:
            raise OptionError(wrong) from None
        if colon and said not in _HOW:
            raise OptionError(wrong)
        return cls(ns, _HOW[said] if colon else how)

    def __str__(self) -> str:
        unit = next((unit for unit in ("s", "ms", "us") if self.ns and self.ns % _UNITS_NS[unit] == 0), "ns")
        return f"{self.ns // _UNITS_NS[unit]}{unit}" + (":spin" if self.how == "spin" and self.ns else "")

    def __repr__(self) -> str:
        return f"Cost({str(self)!r})"


NOTHING = Cost()


@dataclass(frozen=True, slots=True)
class Costs:
    """What the steps of a run cost. Each is a `Cost` or its text; by default nothing costs anything.

    Attributes
    ----------
    tlbi : Cost or str
        A stage-2 TLBI, for the core that issues it; the entry is locked meanwhile.
    exit : Cost or str
        Leaving the guest for a fault, and coming back.
    copy : Cost or str
        Copying a page, for the host; paid by a migration.
    cache : Cost or str
        A cache operation, for each 4 KiB of it.
    allocation : Cost or str
        Taking a table frame.

    Raises
    ------
    OptionError
        A text is no cost.
    """

    tlbi: Cost | str = NOTHING
    exit: Cost | str = NOTHING
    copy: Cost | str = NOTHING
    cache: Cost | str = NOTHING
    allocation: Cost | str = NOTHING

    def __post_init__(self) -> None:
        for field in fields(self):
            cost = getattr(self, field.name)
            if isinstance(cost, str):
                object.__setattr__(self, field.name, Cost.parse(cost))
            elif not isinstance(cost, Cost):
                raise TypeError(f"{field.name} must be a Cost or a text such as '200us', not {type(cost).__name__}")

    def __str__(self) -> str:
        names = {"tlbi": "TLBI", "copy": "copied page", "cache": "cache operation per 4KiB", "allocation": "frame"}
        known = ((names.get(field.name, field.name), getattr(self, field.name)) for field in fields(self))
        return ", ".join(f"{name} {cost}" for name, cost in known if cost.ns) or "nothing"


FREE = Costs()
