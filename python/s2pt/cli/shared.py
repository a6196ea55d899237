"""The options that all experiments take, written once: a command is given what they say as its first argument.

Typer reads a command's options from its signature. So the signature that it sees is put together here: the shared
options of the memory, the command's own, the other shared ones.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from s2pt._checks import check_heeded
from s2pt.cli import costs, pictures
from s2pt.cli.common import parse_numbers, size_option
from s2pt.cli.options import (
    BackingName,
    Bytes,
    BytesOfAll,
    Json,
    Policies,
    SemanticsName,
    Slots,
    Vcpus,
    backing_option,
    policies_option,
    semantics_option,
)
from s2pt.costs import Costs
from s2pt.errors import OptionError
from s2pt.types import Backing, Policy, Semantics

__all__ = ["Shared", "experiment", "with_flags"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What the shared options say.

    Attributes
    ----------
    counts, policies : list
        vCPU counts and lock policies: a run of each pair.
    bytes_per_vcpu, backing, slots, semantics
        The guest's memory and its table.
    cost_texts : dict
        Costs as they were given, and `spin`.
    json : bool
        Print one document.
    plot, html : Path or None
        Where to draw, and where to write a page.
    """

    counts: list[int]
    policies: list[Policy]
    bytes_per_vcpu: int
    backing: Backing
    slots: int
    semantics: Semantics
    cost_texts: dict[str, str]
    spin: bool
    json: bool
    plot: Path | None
    html: Path | None

    def costs(self, beside: str = "0ns") -> Costs:
        """Read what steps cost; `beside` is a cost of the command's own that ``--spin`` is about, too."""
        return costs.read(**self.cost_texts, spin=self.spin, beside=beside)

    def check_overlap(self, overlap: bool) -> None:
        """Refuse an overlap of one vCPU with nobody."""
        check_heeded(
            "overlap", overlap, False, any(count > 1 for count in self.counts), "no run has more than one vCPU"
        )

    def common(self, beside: str = "0ns") -> dict[str, Any]:
        """Give what all runs of an experiment are told alike."""
        names = ("bytes_per_vcpu", "backing", "slots", "semantics")
        return {name: getattr(self, name) for name in names} | {"costs": self.costs(beside)}


def _read(
    vcpus: Vcpus = ["1"],  # noqa: B006 - typer copies it
    bytes_: Bytes = "1GiB",
    backing: BackingName = "pages",
    slots: Slots = 1,
    policy: Policies = None,
    semantics: SemanticsName = "exact",
    stall_tlbi: costs.Tlbi = "0ns",
    exit_cost: costs.Exit = "0ns",
    cache_cost: costs.Cache = "0ns",
    allocation_cost: costs.Allocation = "0ns",
    spin: costs.Spin = False,
    json_: Json = False,
    plot: pictures.Plot = None,
    html: pictures.Html = None,
) -> Shared:
    pictures.check(plot, html)
    return Shared(
        counts=parse_numbers(vcpus),
        policies=policies_option(policy),
        bytes_per_vcpu=size_option(bytes_),
        backing=backing_option(backing),
        slots=slots,
        semantics=semantics_option(semantics),
        cost_texts={"tlbi": stall_tlbi, "exit": exit_cost, "cache": cache_cost, "allocation": allocation_cost},
        spin=spin,
        json=json_,
        plot=plot,
        html=html,
    )


@contextlib.contextmanager
def flags(options: Iterable[inspect.Parameter]) -> Iterator[None]:
    """Have refusals that begin with an argument's name begin with the option that was typed for it."""
    try:
        yield
    except OptionError as error:
        for option in options:
            name = option.name.rstrip("_")
            for said in (name, f"{name}_s", name.replace("_", " ")):
                if str(error).startswith(f"{said} "):
                    raise OptionError(_flag(option) + str(error).removeprefix(said)) from None
        raise


def _flag(option: inspect.Parameter) -> str:
    (about,) = option.annotation.__metadata__
    names = (about.default, *(about.param_decls or ()))  # of an annotation, the first name stands where defaults do
    return "/".join(name for name in names if isinstance(name, str))


def with_flags(function: Callable[..., int]) -> Callable[..., int]:
    """Make `flags` of a command's own options."""
    options = list(_options(function).values())

    @functools.wraps(function)
    def command(*given: Any, **named: Any) -> int:
        with flags(options):
            return function(*given, **named)

    return command


def _options(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    hints = get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters
    return {
        name: parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in parameters.items()
    }


def experiment(*, whole: bool = False, **defaults: object) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Make a command of a function that is given a `Shared` and, by name, its own options.

    `defaults` are those of shared options that this command has otherwise; `whole`: the memory is that of all vCPUs.
    """
    shared = _options(_read)
    if whole:
        shared["bytes_"] = shared["bytes_"].replace(annotation=BytesOfAll)
    for name, default in defaults.items():
        shared[name] = shared[name].replace(default=default)
    first = [shared[name] for name in ("vcpus", "bytes_", "backing", "slots")]
    others = [option for option in shared.values() if option not in first]

    def make(function: Callable[..., int]) -> Callable[..., int]:
        own = [option for name, option in _options(function).items() if name != "shared"]

        def command(**given: Any) -> int:
            with flags(options):
                told = _read(**{name: given.pop(name) for name in shared})
                return function(told, **given)

        options = [*first, *own, *others]
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__signature__ = inspect.Signature(options, return_annotation=int)  # type: ignore[attr-defined]
        command.__annotations__ = {option.name: option.annotation for option in options}
        return command

    return make
