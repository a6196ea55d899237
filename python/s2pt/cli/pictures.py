"""``--plot`` and ``--html``: what can be wrong with them is said before anything runs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s2pt.cli.common import refuse
from s2pt.errors import OptionError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Html", "Plot", "check", "write"]

Plot = Annotated[Path | None, typer.Option("--plot", metavar="FILE.svg|png", help="Draw the results to this file.")]
Html = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Write results, pictures and machine as one HTML file.")
]


def check(plot: Path | None, html: Path | None = None) -> None:
    """Refuse what could not be written later: a missing library, another extension, a folder that is not there."""
    asked = [path for path in (plot, html) if path is not None]
    if not asked:
        return
    try:
        from s2pt.lab.plots import picture_format
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "matplotlib":
            raise
        option = "--plot" if plot else "--html"
        raise OptionError(f"{option} needs matplotlib; install it with: pip install 's2pt[lab]'") from None
    if plot is not None:
        picture_format(plot)
    if plot is not None and html is not None and plot.resolve() == html.resolve():
        raise refuse(f"--plot and --html name the same file: {plot}")
    for path in asked:
        if not path.absolute().parent.is_dir():
            raise refuse(f"{path} is in a folder that does not exist")
        if path.is_dir():
            raise refuse(f"{path} is a folder")


def write(
    plot: Path | None,
    draw: Callable[[], Figure],
    html: Path | None = None,
    tell: Callable[[], str] | None = None,
    *,
    early: bool = False,
) -> None:
    """Write what was asked for; if the run was ended `early`, as far as there is something to draw."""
    if plot is not None:
        from s2pt.lab.plots import save

        with _writing(plot, early):
            save(draw(), plot)
    if html is not None and tell is not None:
        with _writing(html, early):
            html.write_text(tell(), encoding="utf-8")


@contextlib.contextmanager
def _writing(path: Path, early: bool) -> Iterator[None]:
    """Name the file in what goes wrong; of a run that was ended `early` there may be nothing to draw."""
    try:
        yield
    except OptionError as error:
        if not early:
            raise
        print(f"s2pt: {path} is not written: {error}", file=sys.stderr)
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
