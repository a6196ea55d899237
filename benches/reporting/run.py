"""Running the benches, and what they ran on."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PLOTS = ROOT / "docs" / "plots"
COUNTS = ROOT / "benches" / "instructions.json"

# Written by the report itself, so no sign that what is measured differs from the commit.
OWN_FILES = (":!BENCHMARKS.md", ":!benches/instructions.json", ":!docs/plots")


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a command and return what it printed; its errors go to the terminal."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def build(bench: str) -> tuple[Path, Path]:
    """Build a bench target; return its executable and the target directory."""
    messages = run("cargo", "bench", "--locked", "--no-run", "--bench", bench, "--message-format=json")
    for line in messages.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message["target"]["name"] == bench:
            executable = Path(message["executable"])
            return executable, executable.parents[2]
    raise SystemExit(f"cargo built no executable for the bench target {bench}")


def moment() -> dict[str, str]:
    """Say when and what is measured, and how busy the machine is."""
    changed = run("git", "status", "--porcelain", "--untracked-files=no", "--", ".", *OWN_FILES)
    commit = run("git", "rev-parse", "--short=12", "HEAD").strip()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit + (" and changes not committed" if changed else ""),
        "load": f"{os.getloadavg()[0]:.2f}",
    }


def machine() -> list[tuple[str, str]]:
    """Say what was measured on, and with what."""
    cpu = run("lscpu")
    lock = (ROOT / "Cargo.lock").read_text()
    model, cores = _first(r"^Model name: *(.*)$", cpu), _first(r"^CPU\(s\): *(.*)$", cpu)
    level2, level3 = _first(r"^L2.*?: *(.*)$", cpu), _first(r"^L3.*?: *(.*)$", cpu)
    return [
        ("processor", f"{model}, {cores} cores"),
        ("caches", f"L2 {level2}, L3 {level3}"),
        ("kernel", platform.release()),
        ("rustc", run("rustc", "--version").strip()),
        ("crossbeam-epoch", _first(r'name = "crossbeam-epoch"\nversion = "([^"]+)"', lock)),
        ("valgrind", run("valgrind", "--version").strip()),
        ("Python", platform.python_version()),
    ]


def _first(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    return match[1].strip() if match else "?"
