"""Entries and registers explained field by field."""

from __future__ import annotations

from s2pt._core import explain_entry, explain_esr, explain_vtcr, explain_vttbr

__all__ = ["explain_entry", "explain_esr", "explain_vtcr", "explain_vttbr"]
