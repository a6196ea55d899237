"""The command's subcommands, and how mistakes leave it: one line, exit code 2."""

from __future__ import annotations

import contextlib
import os
import sys

import typer

from s2pt.cli.bench import bench
from s2pt.cli.check import check
from s2pt.cli.decode import decode
from s2pt.cli.diff import diff
from s2pt.cli.dirty_log import dirty_log
from s2pt.cli.explain import explain
from s2pt.cli.inspect import inspect
from s2pt.cli.migrate import migrate
from s2pt.cli.predict import predict
from s2pt.cli.replay import replay
from s2pt.cli.workloads import access_tracking, demand_paging, memslot, page_table
from s2pt.errors import S2ptError

__all__ = ["app", "run"]

app = typer.Typer(
    name="s2pt",
    help="The Arm stage-2 page table: measure it and dirty logging, replay real guests, look into dumps and values.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("dirty-log")(dirty_log)
app.command("access-tracking")(access_tracking)
app.command("page-table")(page_table)
app.command("demand-paging")(demand_paging)
app.command("memslot")(memslot)
app.command("migrate")(migrate)
app.command("replay")(replay)
app.command("inspect")(inspect)
app.command("explain")(explain)
app.command("diff")(diff)
app.command("decode")(decode)
app.command("check")(check)
app.command("bench")(bench)
app.command("predict")(predict)


def run(arguments: list[str]) -> int:
    """Run the command.

    Parameters
    ----------
    arguments : list of str
        Without the program's name.

    Returns
    -------
    int
        Exit code: 0 done, 1 `--check` found something unexplained, two tables differ, a run lost a byte or a
        block, or a recording breaks a rule, 2 a mistake, 130 interrupted.
    """
    try:
        code = app(args=arguments, prog_name="s2pt", standalone_mode=False)
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    except BrokenPipeError:
        # The reader of our output left: say nothing more, to it or to the interpreter's own flush at the end.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (S2ptError, OSError, MemoryError) as error:
        return _say(str(error) or type(error).__name__, 2)
    except Exception as error:
        # Mistakes in the options, whichever copy of click typer brought along, know how to say themselves.
        say = getattr(error, "format_message", None)
        if type(error).__name__ == "Abort":
            return _say("interrupted", 130)
        if say is None:
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            print(say())
            return 2
        return _say(str(say()), 2)
    # Some versions of typer answer an interrupt with this code, and no exception.
    return _say("interrupted", 130) if code == 130 else code if isinstance(code, int) else 0


def _say(message: str, code: int) -> int:
    print(f"s2pt: error: {' '.join(message.split())}", file=sys.stderr)
    return code
