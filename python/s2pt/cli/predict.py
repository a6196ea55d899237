"""``s2pt predict``: the contention model, for vCPUs and guests that are not at hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from s2pt._checks import check_heeded
from s2pt.cli import pictures
from s2pt.cli.common import console, parse_numbers, parse_policies, print_json, refuse, size_option
from s2pt.cli.options import BACKINGS
from s2pt.errors import OptionError
from s2pt.types import Backing, Policy, format_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from s2pt.lab.calibrate import Calibration
    from s2pt.lab.predict import Prediction

__all__ = ["predict"]

LETTER = "cover-letter"
HERE = "here"


def predict(
    vcpus: Annotated[
        list[str], typer.Option("-v", "--vcpus", metavar="N[,N..]", help="vCPUs; several counts, one prediction each.")
    ] = ["1,2,4,8,16,32,48,128,1024"],  # noqa: B006 - typer copies it
    memory: Annotated[
        str, typer.Option("-b", "--memory", metavar="SIZE", help="Guest memory of each vCPU, as in 1TiB.")
    ] = "4GiB",
    backing: Annotated[
        str, typer.Option("-s", "--backing", metavar="TYPE", help="Host memory, as of dirty-log: pages, thp, 1g.")
    ] = "thp",
    policy: Annotated[
        list[str] | None,
        typer.Option("--policy", metavar="POLICY[,POLICY..]", help="serial, parallel, lockless (default: all)."),
    ] = None,
    cores: Annotated[
        int | None,
        typer.Option("--cores", min=1, max=1 << 20, help="Cores of the machine (default: as where costs are from)."),
    ] = None,
    from_: Annotated[
        list[str],
        typer.Option(
            "--from",
            metavar=f"{LETTER}|{HERE}|FILE",
            help="Where costs are from: KVM's cover letter, a measurement now, or what dirty-log --json printed for "
            "one vCPU (with a second --from, what bench --json printed).",
        ),
    ] = [LETTER],  # noqa: B006
    splits: Annotated[
        str | None,
        typer.Option("--splits", metavar="lazy|exact", help="Broken blocks: the rest faults again, or stays mapped."),
    ] = None,
    host_lock: Annotated[
        bool | None,
        typer.Option("--host-lock/--no-host-lock", help="Each fault takes the lock of the host's memory map, or not."),
    ] = None,
    draws: Annotated[int, typer.Option("--draws", min=2, max=1000, help="Simulations behind each error bar.")] = 20,
    seed: Annotated[int, typer.Option("-r", "--random-seed", min=0, max=2**32 - 1, help="Of the simulation.")] = 1,
    json_: Annotated[bool, typer.Option("--json", help="Print the predictions as JSON.")] = False,
    plot: pictures.Plot = None,
) -> None:
    """Predict populate and dirty times of KVM's dirty_log_perf_test, by vCPU count and lock policy, with 90 % ranges.

    A discrete-event simulation of the vCPUs, the lock, its cache line and the memory bus (docs/predict.md).
    """
    counts = parse_numbers(vcpus)
    policies = parse_policies(policy) if policy else list(Policy)
    if backing not in BACKINGS:
        raise refuse(f"backing {backing!r} is none of {', '.join(BACKINGS)}")
    if splits not in (None, "lazy", "exact"):
        raise refuse(f"splits must be lazy or exact, not {splits!r}")
    blocks = BACKINGS[backing] is not Backing.PAGES
    check_heeded("--splits", splits, None, blocks, "memory in pages has no blocks to be split")
    bytes_ = size_option(memory)
    try:
        from s2pt.lab.predict import predict as simulate
    except ModuleNotFoundError as error:
        if error.name != "simpy":
            raise
        raise OptionError("predict needs simpy; install it with: pip install 's2pt[lab]'") from None
    pictures.check(plot)
    calibration = _calibration(from_, cores)
    predictions = simulate(
        calibration,
        vcpus=counts,
        memory=bytes_,
        backing=BACKINGS[backing],
        policies=policies,
        cores=cores,
        splits=splits,  # type: ignore[arg-type]  # compared above
        host_lock=host_lock,
        draws=draws,
        seed=seed,
    )
    if json_:
        options = {"memory": bytes_, "backing": BACKINGS[backing].value, "from": from_, "draws": draws, "seed": seed}
        used = {"cores": cores, "splits": splits, "host_lock": host_lock}
        rows = [prediction.as_dict() for prediction in predictions]
        print_json({"command": "predict", "options": {**options, **used}, **calibration.as_dict(), "predictions": rows})
    else:
        _print_table(predictions, calibration, bytes_, cores, policies)
    pictures.write(plot, lambda: _draw(predictions))


def _draw(predictions: Sequence[Prediction]) -> Figure:
    from s2pt.lab.plots import times

    return times(predictions=predictions)


def _calibration(sources: Sequence[str], cores: int | None) -> Calibration:
    from s2pt.lab.calibrate import cover_letter, from_runs, here

    if sources == [LETTER]:
        return cover_letter()
    if sources == [HERE]:
        return here()
    if LETTER in sources or HERE in sources:
        raise refuse(f"--from {LETTER} and --from {HERE} stand alone")
    documents: list[dict[str, Any]] = []
    for name in sources:
        try:
            document = json.loads(Path(name).read_text())
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise OptionError(f"{name} is not what s2pt prints with --json")
        documents.append(document)
    return from_runs(documents, cores=cores, source=", ".join(sources))


def _print_table(
    predictions: Sequence[Prediction], calibration: Calibration, memory: int, cores: int | None, policies: list[Policy]
) -> None:
    machine = calibration.machine
    print(f"costs: {calibration.source}; {cores or machine.cores} cores, {format_size(memory)} per vCPU")
    table = Table(title="\nSeconds, and between which nine in ten are expected", box=box.SIMPLE, title_justify="left")
    table.add_column("pass")
    table.add_column("vCPUs", justify="right")
    for policy in policies:
        table.add_column(policy.value)
    cells = {(one.pass_, one.vcpus, one.policy): one for one in predictions}
    counts = list(dict.fromkeys(one.vcpus for one in predictions))
    for pass_ in dict.fromkeys(one.pass_ for one in predictions):
        for count in counts:
            row = [_cell(cells[pass_, count, policy]) for policy in policies]
            table.add_row(pass_ if count == counts[0] else "", f"{count:,}", *row, end_section=count == counts[-1])
    console().print(table)


def _cell(one: Prediction) -> str:
    return f"{figure(one.seconds)} ({figure(one.low)} to {figure(one.high)})"


def figure(seconds: float) -> str:
    """Print seconds with three digits that matter.

    Examples
    --------
    >>> figure(0.20952), figure(34.027), figure(177758.02)
    ('0.210', '34.0', '177,758')
    """
    if seconds >= 100:
        return f"{seconds:,.0f}"
    digits = 1 if seconds >= 10 else 2 if seconds >= 1 else 3
    return f"{seconds:.{digits}f}" if seconds >= 0.1 else f"{seconds:.2e}" if seconds < 1e-3 else f"{seconds:.4f}"
