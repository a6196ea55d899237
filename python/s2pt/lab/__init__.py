"""The lab: what a machine that is not at hand would do, and many runs at once, as pictures.

`s2pt.lab.predict` is the contention model behind ``s2pt predict``, `s2pt.lab.plots` draws, and `sweep` runs many
migrations on any executor. The first two need the extra ``lab``.
"""

from s2pt.lab.sweeps import sweep

__all__ = ["sweep"]
