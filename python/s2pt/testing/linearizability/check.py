"""The search for an order.

Pages are independent but for the results of ranges, so each is searched by itself. A *configuration* of a page is what
the page may be now, with the operations under way that have already had their effect on it. Operations are given effect
only when somebody needs it, at the latest when they return: then every configuration goes on by whatever steps of
operations under way lead to one in which this one is done. Equal configurations are one, however they came about.

What links pages is that the parts of a range must add up. When it returns, the configurations of its pages are sorted
by the part that it had there; each choice of parts that adds up is a *world*, in which every page keeps the
configurations of its part. Worlds that differ in one page only become one again. No world left: no order.

(Wing and Gong's search, with the memory of Lowe's, "Testing for linearizability", 2017, and his just-in-time steps.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from s2pt.testing.linearizability.history import History
from s2pt.testing.linearizability.steps import Page, Part, Request
from s2pt.testing.linearizability.text import render

__all__ = ["Verdict", "check"]

Taken: TypeAlias = frozenset[tuple[int, int, Part]]  # operation, how many steps of it, its part
Configuration: TypeAlias = tuple[Page, Taken]
Configurations: TypeAlias = frozenset[Configuration]
World: TypeAlias = tuple[Configurations, ...]  # by page


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `check` found; true if there is an order.

    Attributes
    ----------
    linearizable : bool
        Whether there is one.
    counterexample : str
        Otherwise: the page, what it could be before, and the operations around that do not fit.
    configurations : int
        How many were looked at.
    worlds : int
        How many there were at most at a time.
    """

    linearizable: bool
    counterexample: str
    configurations: int
    worlds: int

    def __bool__(self) -> bool:
        return self.linearizable


def check(history: History) -> Verdict:
    """Look for an order of the operations that explains their results.

    Parameters
    ----------
    history : History
        Of a table that was empty at the start. Every operation has returned.

    Returns
    -------
    Verdict
        True in a condition if there is one.

    Examples
    --------
    >>> from s2pt.testing import Call
    >>> from s2pt.testing.linearizability import History, Leaf, Operation
    >>> from s2pt.types import Mapped, Prot
    >>> page = 0x1000
    >>> mapped = Operation(1, 0, 1, Call("map", page, 4096, 0x9000, Prot.RW), ("returned", Mapped(4096, 0)))
    >>> early = Operation(2, 2, 5, Call("read", page), ("returned", Leaf(0x9000, Prot.RW)))
    >>> gone = Operation(1, 3, 4, Call("unmap", page, 4096), ("returned", 4096))
    >>> bool(check(History([mapped, gone, early], [page])))
    True
    >>> late = Operation(2, 6, 7, Call("read", page), ("returned", Leaf(0x9000, Prot.RW)))
    >>> print(check(History([mapped, gone, late], [page])).counterexample)
    page 0x1000: no order gives these results
    at moment 6 it can be: nothing
      thread 2  |-|  6..7  read(0x1000) -> 0x9000 RW  <- fits nowhere
    """
    return _Search(history).run()


class _Search:
    def __init__(self, history: History) -> None:
        self.history = history
        self.pages = sorted(history.pages)
        operations = sorted(history.operations, key=lambda operation: operation.invoked)
        self.requests = [Request(history, operation, operations) for operation in operations]
        self.available: dict[int, list[int]] = {page: [] for page in self.pages}
        empty: Configurations = frozenset([(None, frozenset())])
        self.worlds: set[World] = {(empty,) * len(self.pages)}
        self.before: dict[int, dict[int, set[Page]]] = {}
        self.looked_at = 0

    def run(self) -> Verdict:
        events = [
            (moment, kind, index)
            for index, request in enumerate(self.requests)
            for moment, kind in ((request.operation.invoked, 0), (request.operation.returned, 1))
        ]
        most = 1
        for _, kind, index in sorted(events):
            if kind == 0:
                self._invoke(index)
            elif not self._return(index):
                return Verdict(False, self._explain(index), self.looked_at, most)
            most = max(most, len(self.worlds))
        return Verdict(True, "", self.looked_at, most)

    def _invoke(self, index: int) -> None:
        request = self.requests[index]
        places = [self.pages.index(page) for page in request.pages]
        self.before[index] = {
            page: {state for world in self.worlds for state, _ in world[place]}
            for page, place in zip(request.pages, places, strict=True)
        }
        for page in request.pages:
            self.available[page].append(index)

    def _return(self, index: int) -> bool:
        """Give the operation effect on all of its pages; whether any world is left."""
        request = self.requests[index]
        places = [self.pages.index(page) for page in request.pages]
        self.known: dict[tuple[int, Configurations], dict[Part, Configurations]] = {}
        worlds: set[World] = set()
        for world in self.worlds:
            by_part = [self._sorted(index, place, world[place]) for place in places]
            for chosen in request.choices([list(parts) for parts in by_part]):
                changed = list(world)
                for place, parts, configurations in zip(places, chosen, by_part, strict=True):
                    changed[place] = frozenset().union(*(configurations[part] for part in parts))
                worlds.add(tuple(changed))
        for page in request.pages:
            self.available[page].remove(index)
        if worlds:
            self.before.pop(index)
            self.worlds = _joined(worlds, places)
        return bool(worlds)

    def _sorted(self, index: int, place: int, configurations: Configurations) -> dict[Part, Configurations]:
        """Return the configurations in which the operation is done, by its part in this page, without it."""
        known = self.known.get((place, configurations))
        if known is None:
            groups: dict[Part, set[Configuration]] = defaultdict(set)
            for state, taken in self._expanded(index, self.pages[place], configurations):
                mine = next((entry for entry in taken if entry[0] == index), None)
                groups[mine[2] if mine else ()].add((state, taken - {mine} if mine else taken))
            known = {part: frozenset(group) for part, group in groups.items()}
            self.known[place, configurations] = known
        return known

    def _expanded(self, index: int, page: int, configurations: Configurations) -> Iterable[Configuration]:
        """Go on from each configuration until the operation is done."""
        seen, work = set(configurations), list(configurations)
        while work:
            self.looked_at += 1
            state, taken = work.pop()
            progress = {entry[0]: entry[1] for entry in taken}
            done = progress.get(index, 0)
            if self.requests[index].optional(page):
                # It need not do anything; but what a peer did may rest on it.
                if done == 2 or (done == 0 and (state, taken) in configurations):
                    yield state, taken
                if done == 2:
                    continue
            elif done:
                yield state, taken
                continue
            for other in self.available[page]:
                request, phase = self.requests[other], progress.get(other, 0)
                if phase > int(request.optional(page)):
                    continue
                for now, part in request.steps(page, state, phase):
                    rest = frozenset(entry for entry in taken if entry[0] != other)
                    following = now, rest | {(other, phase + 1, part)}
                    if following not in seen:
                        seen.add(following)
                        work.append(following)

    def _explain(self, index: int) -> str:
        return render([request.operation for request in self.requests], self.requests[index], self.before[index])


def _joined(worlds: set[World], places: list[int]) -> set[World]:
    """Make one of worlds that differ in one of these pages only."""
    for place in places:
        groups: dict[tuple[World, World], set[Configuration]] = defaultdict(set)
        for world in worlds:
            groups[world[:place], world[place + 1 :]] |= world[place]
        worlds = {(*left, frozenset(here), *right) for (left, right), here in groups.items()}
    return worlds
