"""Shows that weakening any step of the protocol is noticed: each mutation of src/faults/protocol.rs must be caught.

    python3 tests/protocol_mutations.py                  what CI runs: each mutation against its quickest catcher
    python3 tests/protocol_mutations.py --search         and where that one is silent, all others until one speaks
    python3 tests/protocol_mutations.py --all-catchers   every mutation against every catcher (hours)
    python3 tests/protocol_mutations.py --markdown docs/mutations.md

Three builds serve all mutations: plain, loom and shuttle, each with ``--cfg s2pt_mutations`` and a folder of its own
under target/mutations. A catcher is one test of one of them. First every catcher must pass with no mutation on.
Prints who caught what, and how, and exits with 1 if a mutation survives that ``SURVIVORS`` does not explain, or one of
those is caught.

A run that ends by a signal or finds no end is caught and says so: "hang" is no end within the limit, of a test that
takes a small part of it without a mutation.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from protocol_catchers import CATCHERS, SURVIVORS

ROOT = Path(__file__).resolve().parent.parent
CATALOGUE = ROOT / "src/faults/protocol.rs"
FLAGS = {"plain": "", "loom": "--cfg loom", "shuttle": "--cfg shuttle"}
TARGETS = {
    "plain": [
        "machine_mutations",
        "table_mutations",
        "table_trail",
        "bug_history",
        "table_frames",
        "vm",
        "table_stress",
    ],
    "loom": ["lib", "loom_mutations", "loom_table"],
    "shuttle": ["shuttle_table"],
}
"""What is built, and searched in this order. All others of a plain build have no thread to lose a race to."""
SCHEDULES = "400"
"""Of shuttle, for one run."""
SECONDS = 60
"""For one run; a catcher that needs more than a third of it without a mutation is none."""
SEARCH_SKIPS = re.compile(r"^(arch|image|bench|vm)::|prefault|replay|workload")
"""Tests that cannot notice anything of the protocol."""


@dataclass(frozen=True, order=True)
class Catcher:
    """One test."""

    build: str
    target: str
    test: str

    def __str__(self) -> str:
        return f"{self.build} {self.target} {self.test}"


@dataclass(frozen=True)
class Verdict:
    """What one run came to."""

    caught: bool
    how: str
    seconds: float


def catalogue() -> dict[str, str]:
    """Names, with what is wrong; each stands somewhere in the code."""
    known = dict(re.findall(r'^    (\w+): "(.*)",$', CATALOGUE.read_text(), re.MULTILINE))
    code = "".join(path.read_text() for path in (ROOT / "src").rglob("*.rs") if path != CATALOGUE)
    idle = [name for name in known if not re.search(rf"mutated!\([\w\s|]*\b{name}\b", code)]
    if idle or not known:
        raise SystemExit(f"mutations without a line of code: {idle}")
    return known


def build(name: str, targets: list[str]) -> dict[str, Path]:
    """Build test binaries with mutations in them, and say where they are."""
    command = ["cargo", "test", "--locked", "--no-run", "--profile", "mutations", "--message-format", "json"]
    command += ["--target-dir", f"target/mutations/{name}"]
    for target in targets:
        command += ["--lib"] if target == "lib" else ["--test", target]
    environment = os.environ | {"RUSTFLAGS": f"--cfg s2pt_mutations {FLAGS[name]}".strip()}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"the build {name} fails")
    found = {}
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message["reason"] == "compiler-artifact" and message["profile"]["test"] and message["executable"]:
            target = message["target"]
            found["lib" if "lib" in target["kind"] else target["name"]] = Path(message["executable"])
    return found


class Bench:
    """The builds, and runs of their tests."""

    def __init__(self, targets: dict[str, list[str]]) -> None:
        self.binaries = {name: build(name, wanted) for name, wanted in targets.items()}
        self.tests = {
            (name, target): self.listed(binary)
            for name, binaries in self.binaries.items()
            for target, binary in binaries.items()
        }

    @staticmethod
    def listed(binary: Path) -> list[str]:
        said = subprocess.run([binary, "--list"], capture_output=True, text=True, check=True).stdout
        return re.findall(r"^(.*): test$", said, re.MULTILINE)

    def find(self, text: str) -> Catcher:
        """Return the test that is meant: its name alone will do, whatever module it stands in."""
        build, target, test = text.split(" ")
        found = [known for known in self.tests[build, target] if f"::{known}".endswith(f"::{test}")]
        if len(found) != 1:
            raise SystemExit(f"{len(found)} tests are meant by the catcher {text}")
        return Catcher(build, target, found[0])

    def catchers(self) -> list[Catcher]:
        return [
            Catcher(name, target, test)
            for name in self.binaries
            for target in TARGETS[name]
            for test in self.tests.get((name, target), [])
            if not SEARCH_SKIPS.search(test)
        ]

    def run(self, catcher: Catcher, mutation: str, seconds: float = SECONDS) -> Verdict:
        """Run one test with one mutation, or with none."""
        environment = os.environ | {
            "S2PT_MUTATION": mutation,
            "S2PT_SHUTTLE_SCHEDULES": SCHEDULES,
            "S2PT_CAMPAIGN_SECONDS": "1",
            "RUST_BACKTRACE": "0",
        }
        command = [str(self.binaries[catcher.build][catcher.target]), catcher.test, "--exact", "--nocapture"]
        started = time.monotonic()
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            errors="replace",
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return Verdict(True, f"hang: no end in {seconds:.0f} s", time.monotonic() - started)
        taken = time.monotonic() - started
        if process.returncode == 0:
            return Verdict(False, "", taken)
        return Verdict(True, witness(said, process.returncode), taken)


def witness(said: str, code: int) -> str:
    """Return the first line of a failure."""
    lines = said.splitlines()
    for number, line in enumerate(lines):
        if "panicked at" in line:
            rest = lines[number + 1 : number + 4]
            told = rest[:1] + [text for text in rest[1:] if re.match(r" +(left|right): ", text)]
            return re.sub(r"\s+", " ", " ".join(told))[:150]
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def survey(bench: Bench, catchers: list[Catcher], known: bool) -> list[Catcher]:
    """Return the catchers that pass without a mutation, the quickest first. One that fails ends it all.

    So does one that is too slow, if they are known and not what a search tries.
    """
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        verdicts = list(pool.map(lambda catcher: bench.run(catcher, ""), catchers))
    for catcher, verdict in zip(catchers, verdicts, strict=True):
        if verdict.caught and not verdict.how.startswith("hang"):
            raise SystemExit(f"without a mutation {catcher} fails: {verdict.how}")
    timed = [(v.seconds, c) for c, v in zip(catchers, verdicts, strict=True) if v.seconds < SECONDS / 2]
    slow = sorted(set(catchers) - {catcher for _, catcher in timed})
    for catcher in slow:
        print(f"too slow to be a catcher: {catcher}", flush=True)
    if known and slow:
        raise SystemExit("without a mutation a catcher must end, and soon")
    return [catcher for _, catcher in sorted(timed)]


@dataclass(frozen=True)
class Result:
    """Who caught a mutation, and how; nobody: it survived."""

    mutation: str
    catcher: Catcher | None
    how: str
    seconds: float
    others: tuple[Catcher, ...] = ()


def hunt(bench: Bench, mutation: str, order: list[Catcher], everyone: bool) -> Result:
    """Run catchers until one catches it, or all."""
    first: Result | None = None
    spent = 0.0
    for catcher in order:
        verdict = bench.run(catcher, mutation)
        spent += verdict.seconds
        if not verdict.caught:
            continue
        if first is None:
            first = Result(mutation, catcher, verdict.how, verdict.seconds)
            if not everyone:
                break
        else:
            first = replace(first, others=(*first.others, catcher))
    return first or Result(mutation, None, "", spent)


def markdown(known: dict[str, str], results: list[Result]) -> str:
    """Write the table of docs/mutations.md."""

    def cell(text: str) -> str:
        return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")

    caught = [result for result in results if result.catcher]
    lines = [
        "# Mutations of the protocol",
        "",
        "Written by `python3 tests/protocol_mutations.py --markdown docs/mutations.md`; the mutations themselves are",
        "listed in `src/faults/protocol.rs`, who is asked in `tests/protocol_catchers.py`. Each is one step of the",
        "protocol left out, moved or weakened in a build with `--cfg s2pt_mutations`, switched on by `S2PT_MUTATION`.",
        "",
        f"{len(caught)} of {len(results)} are caught. The witness is the first line of the failure; the last column",
        "is the time that it took, in seconds.",
        "",
        "| mutation | what is wrong | caught by | witness | s |",
        "|---|---|---|---|---|",
    ]
    for result in caught:
        who = result.catcher
        assert who is not None
        lines.append(
            f"| `{result.mutation}` | {cell(known[result.mutation])} | {who.build}: `{who.target}` `{who.test}` | "
            f"{cell(result.how)} | {result.seconds:.1f} |"
        )
    survived = [result.mutation for result in results if not result.catcher]
    lines += ["", "## Survivors", ""]
    if survived:
        lines += ["| mutation | what is wrong | why nothing here notices, and what would |", "|---|---|---|"]
    for name in survived:
        lines.append(f"| `{name}` | {cell(known[name])} | {cell(SURVIVORS.get(name, '**unexplained**'))} |")
    if not survived:
        lines.append("None.")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--search", action="store_true", help="where the known catcher is silent, try all others")
    parser.add_argument("--all-catchers", action="store_true", help="run every catcher against every mutation")
    parser.add_argument("--only", action="append", help="name of a mutation; may be given several times")
    parser.add_argument("--markdown", type=Path, help="write the table there")
    parser.add_argument("--build", action="append", choices=FLAGS, help="search these builds only")
    parser.add_argument("--target", action="append", help="search these test binaries only")
    options = parser.parse_args()
    started = time.monotonic()
    known = catalogue()
    unknown = (set(options.only or ()) | set(CATCHERS) | set(SURVIVORS)) - set(known)
    if unknown:
        raise SystemExit(f"no such mutations: {sorted(unknown)}")
    chosen = options.only or list(known)
    wide = options.search or options.all_catchers
    wanted = {name: text for name, text in CATCHERS.items() if name in chosen}
    if wide:
        targets = {
            name: [target for target in TARGETS[name] if target in (options.target or TARGETS[name])]
            for name in options.build or FLAGS
        }
        targets = {name: some for name, some in targets.items() if some}
    else:
        targets = {}
    for text in wanted.values():
        name, target, _ = text.split(" ")
        if target not in targets.setdefault(name, []):
            targets[name].append(target)
    bench = Bench(targets)
    preferred = {name: bench.find(text) for name, text in wanted.items()}
    built = time.monotonic()
    print(f"built {', '.join(targets)} in {built - started:.0f} s", flush=True)
    everyone = survey(bench, bench.catchers() if wide else sorted(set(preferred.values())), known=not wide)
    if options.target:
        everyone = [catcher for catcher in everyone if catcher.target in options.target]
    print(f"{len(everyone)} catchers pass without a mutation, {time.monotonic() - built:.0f} s", flush=True)

    def job(mutation: str) -> Result:
        order = [preferred[mutation]] if mutation in preferred else []
        if wide and (options.all_catchers or mutation not in SURVIVORS):
            order += [catcher for catcher in everyone if catcher not in order]
        result = hunt(bench, mutation, order, options.all_catchers)
        who = result.catcher or "-"
        others = f" (+{len(result.others)})" if result.others else ""
        print(f"{mutation:22}{known[mutation]:84} {who}{others}: {result.how} [{result.seconds:.1f} s]", flush=True)
        return result

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        results = list(pool.map(job, chosen))
    if options.markdown:
        options.markdown.write_text(markdown(known, results))
    survived = {result.mutation for result in results if not result.catcher}
    unexplained = sorted(survived - set(SURVIVORS))
    revenants = sorted((set(SURVIVORS) & set(chosen)) - survived)
    print(
        f"{len(chosen) - len(survived)} of {len(chosen)} mutations caught, "
        f"{len(survived - set(unexplained))} known to survive, {time.monotonic() - started:.0f} s"
    )
    for name in unexplained:
        print(f"survived: {name}: {known[name]}")
    for name in revenants:
        print(f"caught, though listed as a survivor: {name}")
    return 1 if unexplained or revenants else 0


if __name__ == "__main__":
    sys.exit(main())
