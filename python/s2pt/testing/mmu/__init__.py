"""Judged by others: our walks and registers beside MMUs that nobody of this project wrote.

Two oracles answer the same probes (read, write or fetch at an address, from EL1 or EL0):

- *unicorn*, an emulated CPU in this process, asked by AT instructions; part of the test extra;
- *QEMU* (`qemu-system-aarch64`), a machine on which a guest really loads, stores and fetches.

The tables are random descriptor trees, reserved encodings included (`trees`), and tables that random operations of
`s2pt.Stage2` built (`own`). What must agree is in `judge`; what an oracle is known to do wrong is in `known`, and each
use is counted. `docs/oracles.md` tells what each covers.

``python -m s2pt.testing.mmu --oracle unicorn --probes 1000000`` runs it from a shell; the functions of
`s2pt.testing.mmu.campaign` from a program.
"""
