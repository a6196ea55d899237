"""What a measurement ran on: processor, caches, kernel, load."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from pathlib import Path

__all__ = ["describe"]

CPUINFO = Path("/proc/cpuinfo")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def describe() -> dict[str, str]:
    """Describe the machine; what it does not tell is left out.

    Examples
    --------
    >>> sorted(describe())[-1]
    'system'
    """
    said = {
        "processor": f"{_processor()}, {os.cpu_count() or '?'} CPUs",
        "caches": ", ".join(_caches()),
        "system": f"{platform.system()} {platform.release()}",
        "load": f"{os.getloadavg()[0]:.2f}",
    }
    return {name: text for name, text in said.items() if text}


def _processor() -> str:
    names = dict(part.split(":", 1) for part in _read(CPUINFO).splitlines() if ":" in part)
    plain = {name.strip(): value.strip() for name, value in names.items()}
    return plain.get("model name") or plain.get("Model") or platform.machine()


def _caches() -> Iterable[str]:
    for index in sorted(CACHES.glob("index*")):
        level, kind, size = (_read(index / name).strip() for name in ("level", "type", "size"))
        if level and size and kind != "Instruction":
            yield f"L{level} {size.removesuffix('K')} KiB" if size.endswith("K") else f"L{level} {size}"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
