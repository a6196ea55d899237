"""Shows that the oracles notice wrong code: each fault of src/faults/arithmetic.rs is switched on and must be caught.

    python tests/mmu_faults.py target/faults/site

where the folder holds the package built with ``RUSTFLAGS="--cfg s2pt_faults"`` (`.ci/run faults` builds it and runs
this). First each oracle must agree with that build as long as no fault is on. Prints a table of which oracle caught
which fault after how many probes, and exits with 1 if one was caught by none. "sweep" is the sweep of VTCR_EL2 values;
"at once" is a table or register of ours that cannot even be asked about. A run that dies has caught nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ORACLES = {"unicorn": 25_000, "qemu": 60_000}
"""The oracles, and how many probes each gets to catch a fault: all of its shapes have their turn."""
SEED = 20
TIMEOUT_S = 120
"""For one run; a fault may well keep our own code from ending."""


@dataclass(frozen=True)
class Verdict:
    """What one run came to: how the fault was caught, or an empty text."""

    caught: str
    by: str


def run(site: Path, oracle: str, fault: str) -> Verdict:
    """Run one oracle against the build with one fault."""
    environment = os.environ | {"PYTHONPATH": str(site), "S2PT_FAULT": fault}
    command = [sys.executable, "-m", "s2pt.testing.mmu", "--oracle", oracle, "--seed", str(SEED), "--json"]
    command += ["--probes", str(ORACLES[oracle]), "--timeout", "10", "--until-mismatch"]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, cwd=site
        )
    except subprocess.TimeoutExpired:
        return Verdict("error", f"no end in {TIMEOUT_S} s")
    if done.returncode not in (0, 1) or not done.stdout:
        return Verdict("error", "\n".join(done.stderr.strip().splitlines()[-3:]))
    result = json.loads(done.stdout)
    if not result["mismatched"]:
        return Verdict("", "")
    first = result["mismatches"][0].splitlines()[0][:110] if result["mismatches"] else ""
    if result["probes"] == 0 or result["sweep"].get("mismatched"):
        return Verdict("sweep" if result["sweep"].get("mismatched") else "at once", first)
    return Verdict(f"{result['probes']:,} probes", first)


def faults(site: Path) -> dict[str, str]:
    """Ask the build which faults it has."""
    code = "import json, s2pt._core; print(json.dumps(s2pt._core.seeded_faults()))"
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, cwd=site
    )
    return dict(json.loads(done.stdout))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", type=Path, help="folder with the package built with seeded faults")
    parser.add_argument("--only", action="append", help="name of a fault; may be given several times")
    options = parser.parse_args()
    site = options.site.resolve()
    known = faults(site)
    chosen = {name: known[name] for name in options.only or known}
    started = time.monotonic()
    for oracle in ORACLES:
        verdict = run(site, oracle, "")
        if verdict.caught:
            print(f"without a fault {oracle} disagrees: {verdict.caught}: {verdict.by}")
            return 1
    jobs = [(name, oracle) for name in chosen for oracle in ORACLES]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        verdicts = dict(zip(jobs, pool.map(lambda job: run(site, job[1], job[0]), jobs), strict=True))
    width = max(map(len, chosen.values()))
    print(f"{'fault':17}{'what is wrong':{width + 2}}" + "".join(f"{oracle:>16}" for oracle in ORACLES))
    missed = []
    for name, what in chosen.items():
        found = [verdicts[name, oracle].caught for oracle in ORACLES]
        print(f"{name:17}{what:{width + 2}}" + "".join(f"{caught or '-':>16}" for caught in found))
        if set(found) <= {"", "error"}:
            missed.append(name)
        for oracle in ORACLES:
            if verdicts[name, oracle].caught == "error":
                print(f"    {oracle}: {verdicts[name, oracle].by}")
    print(f"{len(chosen) - len(missed)} of {len(chosen)} faults caught, {time.monotonic() - started:.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
