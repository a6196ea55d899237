"""What an operation does to one page, as the model says, and what its pages add up to.

A page is a `Leaf` or nothing. One step of an operation on it is that operation, for this page alone, on a `ModelStage2`
that maps this page alone. Its *part* of the result is what the model answered, as numbers that add up over the pages of
a range.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, TypeAlias

from s2pt.errors import S2ptError
from s2pt.model import ModelStage2
from s2pt.testing.adapter import Call, TableConfig
from s2pt.testing.linearizability.history import History, Leaf, Operation
from s2pt.types import Changed, Existing, Mapped, Prot, Semantics

__all__ = ["Page", "Part", "Request"]

Page: TypeAlias = Leaf | None
Part: TypeAlias = tuple[Any, ...]
Step: TypeAlias = tuple[Page, Part]

_NOTHING: Part = ()
_MAY_LOCK = frozenset({"map", "unmap", "protect", "write_protect", "relax", "split", "collapse"})
_MUST_EXIST = frozenset({"protect", "relax", "mark_young"})


@cache
def _by_model(config: TableConfig, page: Page, call: Call) -> Step:
    """Make the call on a model of which page 0 is as given."""
    table, size = ModelStage2(**config.keywords()), config.granule
    if page is not None:
        table.map(0, size, page.pa, page.prot, software=page.software, af=page.af)
    try:
        answer = _look(table) if call.name == "read" else call.on(table)
    except S2ptError as error:
        return _look(table), (type(error).__name__,)
    return _look(table), _part(answer, size)


def _look(table: ModelStage2) -> Page:
    leaf = next(table.leaves(0, table.geometry.granule), None)
    return None if leaf is None else Leaf(leaf.pa, leaf.prot, leaf.af, leaf.software)


def _part(answer: Any, size: int) -> Part:
    if isinstance(answer, Mapped):
        return answer.bytes, answer.kept
    if isinstance(answer, Changed):
        return answer.leaves, answer.bytes
    if isinstance(answer, Leaf) or answer is None:
        return (answer,)
    if isinstance(answer, int):  # bool as well
        return (int(answer),)
    return answer.pa, answer.prot


class Request:
    """One operation of a history, as the search asks about it."""

    def __init__(self, history: History, operation: Operation, others: Iterable[Operation]) -> None:
        self.operation = operation
        self._config, self._blocks = history.config, history.blocks
        self._shows = history.semantics is Semantics.KVM
        self._whole = history.whole(operation)
        name, (how, value, *place) = operation.call.name, operation.result
        self.conflict = place[0] if how == "raised" and value == "ConflictError" else None
        # Cutting and merging changes no page, and how much there is to cut is a matter of blocks, not of pages.
        touched = [] if name in ("split", "collapse") else history.touched(operation)
        if self.conflict is not None:
            touched = [page for page in touched if page <= self.conflict]
        self.pages = touched
        self._expected = self._totals(how, value)
        self._told = [total is not None for total in self._expected or ()]
        self._known: Part = tuple(total for total in self._expected or () if total is not None)
        self._is_truth = name in ("test_young", "test_and_clear_young")
        # Whether what one page has to do with the result depends on the others.
        looks = name in ("read", "translate") or self.conflict is not None
        self.linked = not looks and self._whole and len(touched) > 1 and any(self._known)
        self._disturbed = (how, value) == ("raised", "TranslationFault") and any(self._disturbs(o) for o in others)
        self._steps: dict[tuple[int, Page], list[Step]] = {}

    def _disturbs(self, other: Operation) -> bool:
        """Whether the other may have held the entry of this translation LOCKED, which is a fault to the MMU."""
        mine = self.operation
        if other.call.name not in _MAY_LOCK or other.returned < mine.invoked or mine.returned < other.invoked:
            return False
        return self._blocks or other.ipa <= mine.ipa < other.ipa + other.size(self._config.granule)

    def _totals(self, how: str, value: Any) -> Part | None:
        """Return what the parts must add up to."""
        name = self.operation.call.name
        if how == "raised":
            # On a range these say that no page had a part in it.
            return {"Again": (0, None), "NotMappedError": (None, 0)}.get(value)
        if name in _MUST_EXIST and value.bytes == 0:
            return (-1, -1)  # the model raises
        if name == "map" and self.operation.keyword("existing", Existing.REPLACE) is Existing.KEEP and value.bytes == 0:
            return (-1, -1)
        total = _part(value, self._config.granule)
        if isinstance(value, Changed) and self._blocks:
            return None, total[1]
        return total

    def passed(self, page: int) -> bool:
        """Whether this page comes before the one for which a `map` was refused."""
        return self.conflict is not None and page < self.conflict

    def optional(self, page: int) -> bool:
        """Whether it may have been filled and emptied."""
        return self._shows and self.passed(page)

    def steps(self, page: int, state: Page, phase: int) -> list[Step]:
        """Return what the operation can make of a page, with its part; in phase 1, an optional one takes it back."""
        if self.optional(page):
            wanted = self._wanted(page)
            if phase == 0:
                return [(wanted, _NOTHING)] if state is None else []
            # In a block the flag is not judged, so it may be another leaf than the one that was filled in.
            emptied: list[Page] = [None] if state == wanted else []
            left: list[Page] = [state] if state != wanted or self._blocks else []
            return [(now, _NOTHING) for now in emptied + left]
        if self.passed(page):
            # It was a hole when it was met, and is what it was.
            return [(None, _NOTHING)] if state is None else []
        known = self._steps.get((page, state))
        if known is None:
            fitting = [step for step in self._answers(page, state) if self._fits(step[1])]
            if not self.linked:
                fitting = [(now, _NOTHING) for now, _ in fitting]
            known = self._steps[page, state] = list(dict.fromkeys(fitting))
        return known

    def _answers(self, page: int, state: Page) -> list[Step]:
        if not self._blocks or state is None:
            answers = [self._answer(page, state)]
        else:
            # Whoever ages a neighbour in the same block ages this one.
            answers = [self._answer(page, replace(state, af=af)) for af in (True, False)]
        if self._blocks:
            answers = [(now and replace(now, af=True), part) for now, part in answers]
        return list(dict.fromkeys(answers))

    def _answer(self, page: int, state: Page) -> Step:
        """Ask the model, for which every page is page 0: what matters is where it maps to from there."""
        call, limit = self.operation.call, 1 << self._config.pa_bits
        size = self._config.granule
        if call.name == "map":
            args: tuple[Any, ...] = (0, size, (call.args[2] - self.operation.ipa) % limit, *call.args[3:])
        elif call.name == "read":
            args = (0,)
        elif call.name == "translate":
            args = (call.args[0] % size, *call.args[1:])
        else:
            args = (0, size, *call.args[2:])
        before = state and replace(state, pa=(state.pa - page) % limit)
        after, part = _by_model(self._config, before, Call(call.name, *args, **dict(call.keywords)))
        if call.name == "translate" and len(part) == 2:
            part = ((part[0] + page) % limit, part[1])
        after = after and replace(after, pa=(after.pa + page) % limit)
        return after, (after,) if call.name == "read" else part

    def _wanted(self, page: int) -> Leaf:
        call, ipa = self.operation.call, self.operation.ipa
        prot = call.args[3] if len(call.args) > 3 else Prot.RW
        af = bool(self.operation.keyword("af", True))
        return Leaf(call.args[2] + page - ipa, Prot(prot), af, self.operation.keyword("software", 0))

    def _fits(self, part: Part) -> bool:
        """Whether this can be the part of one page, whatever the others' are."""
        how, value, *_ = self.operation.result
        name = self.operation.call.name
        if self.conflict is not None:
            return part == ("ConflictError",)
        if name == "translate":
            return self._disturbed or part == (self._expected if how == "returned" else (value,))
        if name == "read":
            return self._same_leaf(part[0], value)
        if part == ("ConflictError",) or (how == "raised" and self._expected is None):
            return False
        # What the model refuses for one page alone, it passes over in a range.
        numbers = self.numbers(part)
        if self._expected is None:
            return True
        if len(self.pages) == 1 and self._whole:
            return self.adds_up([part])
        if self._is_truth:
            return bool(self._expected[0]) or not numbers[0]
        return all(most is None or number <= most for number, most in zip(numbers, self._expected, strict=True))

    def _same_leaf(self, found: Page, told: Page) -> bool:
        if found is None or told is None or not self._blocks:
            return found == told
        return replace(found, af=True) == replace(told, af=True)

    def numbers(self, part: Part) -> Part:
        """Return a part as numbers, also where the model refused the page."""
        if part == ("Again",):
            return 0, self._config.granule
        if part == ("NotMappedError",):
            return 0, 0
        return part

    def adds_up(self, parts: Sequence[Part]) -> bool:
        """Whether the parts of all pages make the result."""
        sums = self._sum(parts)
        if self._is_truth:
            return [number > 0 for number in sums] == [bool(number) for number in self._known]
        return sums == self._known

    def _sum(self, parts: Sequence[Part]) -> Part:
        """Add up what the result tells of the parts."""
        columns = [
            column for column, told in zip(zip(*map(self.numbers, parts), strict=True), self._told, strict=True) if told
        ]
        return tuple(map(sum, columns))

    def choices(self, by_page: Sequence[Collection[Part]]) -> Iterator[tuple[Collection[Part], ...]]:
        """Choose the parts that each page may have had, of those it can have had, in each way that makes the result.

        A choice leaves as much open as it can: each is a world of its own.
        """
        if not self.linked:
            if all(by_page):
                yield tuple(by_page)
        elif self._is_truth:
            # The first page that was young; those before were not, those behind can be either.
            for first in range(len(by_page)):
                sides = [[part for part in parts if part[0] == (index == first)] for index, parts in enumerate(by_page)]
                chosen = (*sides[: first + 1], *by_page[first + 1 :])
                if all(chosen):
                    yield chosen
        else:
            yield from self._sums(by_page, self._known)

    def _sums(self, by_page: Sequence[Collection[Part]], left: Part) -> Iterator[tuple[Collection[Part], ...]]:
        if not by_page:
            if not any(left):
                yield ()
            return
        for part in by_page[0]:
            rest = tuple(now - number for now, number in zip(left, self._sum([part]), strict=True))
            most = len(by_page[1:]) * self._config.granule
            if all(0 <= number <= most for number in rest):
                for chosen in self._sums(by_page[1:], rest):
                    yield ([part], *chosen)
