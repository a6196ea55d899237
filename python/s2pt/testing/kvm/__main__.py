"""The command ``python -m s2pt.testing.kvm``."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence

from s2pt.testing.kvm import DEVIATIONS, Difference, RecordingError, load, replay


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay files and print what came of it; 0 if nothing differs, 1 if something does, 2 for a file that is none."""
    parser = argparse.ArgumentParser(
        prog="python -m s2pt.testing.kvm",
        description="Replay recorded runs of KVM's stage-2 code on a table with semantics='kvm', and compare.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="recorded runs: JSON, also .gz or .xz")
    parser.add_argument("--strict", action="store_true", help="the maintenance must be KVM's, one by one")
    parser.add_argument("--other-thread", action="store_true", help="operations inside a TLBI run on their own thread")
    parser.add_argument("--explain", action="store_true", help="say what each deviation is")
    parser.add_argument("--most", type=int, default=50, metavar="N", help="print this many differences (default 50)")
    options = parser.parse_args(arguments)
    cases = operations = 0
    differences: list[Difference] = []
    explained: Counter[str] = Counter()
    try:
        for path in options.files:
            for case in load(path):
                outcome = replay(case, strict=options.strict, other_thread=options.other_thread)
                cases += 1
                operations += outcome.operations
                differences += outcome.differences
                explained += outcome.deviations
    except RecordingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for difference in differences[: options.most]:
        print(difference)
    if len(differences) > options.most:
        print(f"... and {len(differences) - options.most} more")
    print(f"{cases} cases, {operations} operations, {len(differences)} differences")
    print("deviations (operations that fall under each):")
    for deviation in DEVIATIONS:
        print(f"  {deviation.name:21} {explained[deviation.name]:5}")
        if options.explain:
            for label in ("kvm", "here", "why", "example"):
                print(f"      {label:8} {getattr(deviation, label)}")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
