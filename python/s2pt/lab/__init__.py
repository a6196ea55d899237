"""The lab: what a machine that is not at hand would do.

`s2pt.lab.predict` is the contention model behind ``s2pt predict``. It needs the extra ``lab``.
"""
