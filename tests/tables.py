"""Small tables that several tests look at."""

from __future__ import annotations

from s2pt import Prot, Stage2

IPA, PA, PAGE, MIB = 0x8000_0000, 0x4000_0000, 4096, 1 << 20


def table(kind=Stage2, **options):
    s2 = kind(**options)
    s2.map(IPA, "4MiB", pa=PA, prot=Prot.RW)
    s2.map(IPA + 6 * MIB, PAGE, pa=0x9000, prot=Prot.RX, software=3)
    s2.write_protect(IPA + 2 * MIB, 3 * PAGE)
    return s2


SHAPES = (
    {},
    {"ipa_bits": 48, "ha": False},
    {"ipa_bits": 36, "granule": "16KiB", "xnx": True},
    {"ipa_bits": 46, "granule": "64KiB"},
    {"ipa_bits": 52, "pa_bits": 52, "lpa2": True, "start_level": -1},
)
