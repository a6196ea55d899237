"""What can be called: everything that the public modules list, found by looking, so that nothing new is forgotten."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import pkgutil
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_origin

import s2pt

# Programs, and what is written for our own tests, which run it.
NOT_CALLED = {
    "s2pt.cli": "the command; it has its own hostile options in tests/test_hostile_process.py",
    "s2pt.__main__": "runs the command",
    "s2pt.lab.__main__": "runs the fit of the costs",
    "s2pt.testing.kvm": "a program that reads the project's recorded runs",
    "s2pt.testing.mmu": "a program that starts QEMU and unicorn",
    "s2pt.testing.linearizability": "records threads for minutes and searches; tests/test_linearizability.py",
}

# Callables that are no subject, each with the reason.
EXEMPT = {
    "s2pt.model.ModelStage2": "the specification in plain Python, held against Stage2 by tests/test_stateful.py",
    "s2pt.testing.adapter.Adapter": "a protocol: nothing is called",
    "s2pt.testing.adapter.Stage2Adapter": "hands each call on to its target, unread",
    "s2pt.testing.adapter.ModelAdapter": "hands each call on to the model",
    "s2pt.testing.adapter.Call": "hands each call on to its target, unread",
    "s2pt.testing.machine.Stage2Machine": "a Hypothesis machine, which makes its own calls",
    "s2pt.testing.machine.make_machine": "makes a class of it",
    "s2pt.testing.machine.outcome": "calls what it is given and says what came of it",
    "s2pt.migrate.Migrate.run": "starts threads; what it is made of is MigrateJob",
    "s2pt.workloads.access_tracking.AccessTracking.run": "starts threads; what it is made of is AccessTrackingJob",
    "s2pt.workloads.demand_paging.DemandPaging.run": "starts threads; what it is made of is DemandPagingJob",
    "s2pt.workloads.memslots.Memslots.run": "starts threads; what it is made of is MemslotsJob",
    "s2pt.workloads.common.Experiment.run": "starts threads; what it is made of are the jobs of its kinds",
    "s2pt.workloads.page_table.PageTable.run": "starts threads; what it is made of is PageTableJob",
    "s2pt.trace.replay.Replay.report": "reads what a job of its own has returned",
    "s2pt.trace.replay.Replay.run": "starts threads; what it is made of is ReplayJob",
    "s2pt.vm.Vm.run": "in tests/test_hostile_process.py: it starts threads",
    "s2pt.lab.calibrate.here": "measures for seconds, by DirtyLogJob and BenchJob",
    "s2pt.lab.costs.Demand": "what `demand` makes",
    "s2pt.lab.costs.demand": "calculates with what `predict` has looked at",
    "s2pt._numbers.check_address": "used by parse_size and the model",
    "s2pt._numbers.format_size": "formats a number of the library's own",
    "s2pt.trace.host.Pagemap": "what the reader of a trace makes; takes what it is given",
    "s2pt.trace.host.Pagemap.pa": "calculates with the reader's numbers",
    "s2pt.trace.host.Pagemap.in_line": "calculates with the reader's numbers",
    "s2pt.trace.host.Pagemap.shared": "calculates with the reader's numbers",
}
# Classes of which the constructor alone is exempt.
PARTLY = ("s2pt.trace.host.Pagemap",)
# Strategies are Hypothesis's; the parts of the trace reader are reached through `s2pt.trace.read`, those of the checker
# of recordings through `Recording` and `load`, those of the contention model through `predict`, the style by pictures.
EXEMPT_MODULES = (
    "s2pt.testing.strategies", "s2pt.trace.", "s2pt.recording.", "s2pt.lab.contention", "s2pt.lab.passes",
    "s2pt.lab.fit", "s2pt.lab.letter", "s2pt.lab.style",
)  # fmt: skip

# What the data model or the standard library puts into every class: called for every object by `UNIVERSAL`.
COMMON = frozenset(
    [
        "__class__",
        "__delattr__",
        "__dir__",
        "__eq__",
        "__format__",
        "__ge__",
        "__getattribute__",
        "__getstate__",
        "__gt__",
        "__hash__",
        "__init__",
        "__init_subclass__",
        "__le__",
        "__lt__",
        "__ne__",
        "__new__",
        "__reduce__",
        "__reduce_ex__",
        "__repr__",
        "__setattr__",
        "__setstate__",
        "__sizeof__",
        "__str__",
        "__subclasshook__",
        "__bool__",
        "__replace__",
        "__copy__",
        "__deepcopy__",
    ]
)


@dataclass(frozen=True)
class Target:
    """One callable: a function, a constructor, or a method of the objects of a class."""

    name: str
    parameters: tuple[str, ...]
    keywords: frozenset[str]
    function: Any = None
    owner: Any = None
    attribute: str = ""
    is_property: bool = False


def public_modules() -> list[Any]:
    found = [m.name for m in pkgutil.walk_packages(s2pt.__path__, "s2pt.")]
    names = [
        name for name in found if not name.startswith(tuple(NOT_CALLED)) and not name.split(".")[1].startswith("_")
    ]
    return [s2pt, importlib.import_module("s2pt._core"), *map(importlib.import_module, names)]


@functools.cache
def _stub() -> dict[str, ast.arguments]:
    """Give the arguments of every function of the extension module, as its stub declares them."""
    tree = ast.parse(Path(s2pt.__file__).with_name("_core.pyi").read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    methods = [(f"{c.name}.{f.name}", f.args) for c in classes for f in c.body if isinstance(f, ast.FunctionDef)]
    return dict(methods)


def _parameters(function: Any, name: str) -> tuple[tuple[str, ...], frozenset[str]]:
    """Give the names of the parameters, and those that may be passed by name."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # a default that is no literal
        declared = _stub()[".".join(name.split(".")[-2:])]
        by_name = [a.arg for a in (*declared.args, *declared.kwonlyargs) if a.arg != "self"]
        return (*(a.arg for a in declared.posonlyargs if a.arg != "self"), *by_name), frozenset(by_name)
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = [p for p in signature.parameters.values() if p.name != "self" and p.kind not in variable]
    return tuple(p.name for p in parameters), frozenset(p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY)


def _of_class(name: str, cls: Any) -> list[Target]:
    found = []
    if not issubclass(cls, BaseException) or cls.__init__ is not Exception.__init__:
        # Of an enumeration the members alone: its functional form is the standard library's.
        wanted = (("value",), frozenset()) if issubclass(cls, Enum) else _parameters(cls, f"{name}.__new__")
        found.append(Target(name, *wanted, function=cls))
    for attribute in sorted(dir(cls)):
        home = next((c for c in cls.__mro__ if attribute in vars(c)), object)
        if home.__module__ in ("builtins", "enum") or attribute in COMMON:
            continue
        member = inspect.getattr_static(cls, attribute)
        special = attribute.startswith("__")
        if special and not callable(getattr(cls, attribute)):
            continue
        if attribute.startswith("_") and not special and not attribute.startswith("_repr"):
            continue
        full = f"{name}.{attribute}"
        if inspect.isdatadescriptor(member):
            found.append(Target(full, (), frozenset(), owner=cls, attribute=attribute, is_property=True))
        elif isinstance(member, staticmethod | classmethod):
            found.append(Target(full, *_parameters(getattr(cls, attribute), full), function=getattr(cls, attribute)))
        elif callable(getattr(cls, attribute)):
            found.append(Target(full, *_parameters(getattr(cls, attribute), full), owner=cls, attribute=attribute))
    return found


def surface() -> list[Target]:
    """Every public callable, once."""
    found: dict[str, Target] = {}
    seen: set[int] = set()
    for module in public_modules():
        for name in getattr(module, "__all__", ()) or (n for n in vars(module) if module.__name__ == "s2pt._core"):
            thing = getattr(module, name)
            if id(thing) in seen or not callable(thing) or get_origin(thing):
                continue
            seen.add(id(thing))
            home = getattr(thing, "__module__", module.__name__)
            full = f"{home}.{getattr(thing, '__qualname__', name)}"
            whole = full in EXEMPT and (not inspect.isclass(thing) or full not in PARTLY)
            if whole or module.__name__.startswith(EXEMPT_MODULES):
                continue
            targets = (
                _of_class(full, thing)
                if inspect.isclass(thing)
                else [Target(full, *_parameters(thing, full), function=thing)]
            )
            found.update((target.name, target) for target in targets if target.name not in EXEMPT)
    return list(found.values())
