"""Entries and registers explained field by field, and fault syndromes read."""

from __future__ import annotations

from s2pt._core import explain_entry, explain_esr, explain_vtcr, explain_vttbr, read_syndromes

__all__ = ["explain_entry", "explain_esr", "explain_vtcr", "explain_vttbr", "read_syndromes"]
