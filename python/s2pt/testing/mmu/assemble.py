"""Assembles the programs that QEMU runs: ``python -m s2pt.testing.mmu.assemble`` after a change of ``*.s``.

The bytes are kept beside their sources, so that running them needs no assembler; a test assembles them again and
compares.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["PROGRAMS", "assemble"]

PROGRAMS = {"el2": 0x4020_0000, "guest": 0}
"""Names of the sources, and where each runs."""


def assemble(name: str) -> bytes:
    """Assemble a source by keystone (PyPI: keystone-engine)."""
    source = Path(__file__).with_name(f"{name}.s").read_text()
    lines = (line.partition("//")[0] for line in source.splitlines())
    keystone: Any = import_module("keystone")
    assembler = keystone.Ks(keystone.KS_ARCH_ARM64, keystone.KS_MODE_LITTLE_ENDIAN)
    code, _ = assembler.asm("\n".join(lines), PROGRAMS[name], as_bytes=True)
    return bytes(code)


if __name__ == "__main__":
    for program in PROGRAMS:
        Path(__file__).with_name(f"{program}.bin").write_bytes(assemble(program))
