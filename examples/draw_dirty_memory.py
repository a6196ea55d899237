"""Draw the address space of a VM under dirty logging, with the pages that its guest wrote to.

python examples/draw_dirty_memory.py space.svg
"""

from __future__ import annotations

import sys

import numpy as np

from s2pt import Vm
from s2pt.lab import plots

base, page, mib = 0x4000_0000, 4096, 1 << 20
vm = Vm(memory="256MiB", backing="thp")
vm.touch(np.arange(base, base + 192 * mib, page, dtype=np.uint64), "w")
vm.take_back(base + 70 * mib, 13 * mib)
vm.enable_dirty_log(0, "auto")
random = np.random.default_rng(7)
for at in random.integers(0, 120, 12):  # the guest writes here and there
    first = base + int(at) * mib + int(random.integers(0, 4)) * mib // 4
    vm.touch(np.arange(first, first + int(random.integers(1, 6)) * mib // 4, page, dtype=np.uint64), "w")
bits = np.unpackbits(vm.dirty_log(0).view(np.uint8), bitorder="little")
vm.touch(base + page * random.integers(0, 16 << 10, 4000, dtype=np.uint64), "w")
dirty = base + page * np.flatnonzero(bits).astype(np.uint64)
plots.save(plots.address_space(vm, size=224 * mib, dirty=dirty), sys.argv[1])
