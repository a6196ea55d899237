"""What the library can refuse, as exception classes.

Every class derives from `S2ptError`, so one ``except`` catches the library; where Python has a class for the same
kind of mistake (``ValueError``, ``KeyError``, ``MemoryError``) that one catches it as well. Each exception carries the
IPA and the level that it speaks of, or None where it speaks of neither. An operation that raised has changed nothing.

The module is pure Python: the extension module, the model and the readers of dumps and traces all raise these.
"""

from __future__ import annotations

from typing import Any, Literal

__all__ = [
    "AccessFlagFault",
    "AddressError",
    "AddressSizeFault",
    "Again",
    "AlignmentError",
    "AttributesError",
    "ClosedError",
    "ConflictError",
    "Fault",
    "GeometryError",
    "GuestExit",
    "ImageError",
    "LevelError",
    "NotMappedError",
    "OptionError",
    "OutOfFramesError",
    "PermissionFault",
    "PtdumpError",
    "RecordingError",
    "S2ptError",
    "SizeError",
    "TraceError",
    "TranslationFault",
    "ViolationError",
]


class S2ptError(Exception):
    """Base of every exception of the library.

    Parameters
    ----------
    message : str
        What was refused: the value in hex, and the limit that it broke.
    ipa : int, optional
        The intermediate physical address that the error speaks of, in bytes.
    level : int, optional
        The level at which the walk met the reason, -1..3 as Arm counts.

    Examples
    --------
    >>> error = NotMappedError("nothing is mapped at 0x1000", ipa=0x1000, level=3)
    >>> str(error), hex(error.ipa), error.level
    ('nothing is mapped at 0x1000', '0x1000', 3)
    >>> isinstance(error, KeyError)
    True
    """

    ipa: int | None
    level: int | None
    index: int | None = None
    """In a call on whole arrays: which element was refused."""

    def __init__(self, message: str = "", ipa: int | None = None, level: int | None = None) -> None:
        super().__init__(message)
        self.ipa = ipa
        self.level = level

    def __str__(self) -> str:
        # KeyError would show its message in quotes.
        return str(self.args[0]) if self.args else ""


class AlignmentError(S2ptError, ValueError):
    """An address or a size is not a multiple of the page size, or a size is zero."""


class AddressError(S2ptError, ValueError):
    """An address is negative, or a range ends beyond the IPA space, beyond the PA space or beyond 64 bits."""


class SizeError(S2ptError, ValueError):
    """A text does not say a number of bytes."""


class LevelError(S2ptError, ValueError):
    """A level is not one of -1..3."""


class OptionError(S2ptError, ValueError):
    """An option of a run is outside its range."""


class GeometryError(S2ptError, ValueError):
    """The architecture has no table of this granule, address size, start level or set of features."""


class AttributesError(S2ptError, ValueError):
    """Attributes contradict each other (device memory with execute), or the table's format has no room for them."""


class ClosedError(S2ptError, ValueError):
    """The object was closed, and the call came after that."""


class NotMappedError(S2ptError, KeyError):
    """Nothing is mapped where the operation needs a mapping."""


class ConflictError(S2ptError):
    """Something is mapped already, and the operation was told to leave it alone."""


class OutOfFramesError(S2ptError, MemoryError):
    """The memory has too few free frames for the tables that an operation needs.

    Attributes
    ----------
    needed : int or None
        Frames that the operation needs in the state in which it found the table.
    available : int or None
        Frames that it could have had.
    """

    needed: int | None
    available: int | None

    def __init__(
        self,
        message: str = "",
        ipa: int | None = None,
        level: int | None = None,
        needed: int | None = None,
        available: int | None = None,
    ) -> None:
        super().__init__(message, ipa, level)
        self.needed = needed
        self.available = available


# The answers below are no mistakes of the caller, so they do not end in Error.


class Again(S2ptError):  # noqa: N818
    """A peer changed the entry first, or all that was asked for was there: look again (a faulting vCPU: run on)."""


class ImageError(S2ptError, ValueError):
    """The bytes are no table image, or a cut-off one."""


class PtdumpError(ImageError):
    """The text is none of KVM's file ``stage2_page_tables``, or is cut off.

    Attributes
    ----------
    line : int or None
        The line that is wrong, counted from 1.

    Examples
    --------
    >>> PtdumpError("line 3: the text is cut off", line=3).line
    3
    """

    line: int | None

    def __init__(
        self, message: str = "", ipa: int | None = None, level: int | None = None, line: int | None = None
    ) -> None:
        super().__init__(message, ipa, level)
        self.line = line


class TraceError(S2ptError, ValueError):
    """The text is no trace, or a cut-off one."""


class RecordingError(S2ptError, ValueError):
    """A recording cannot be checked, written or read: steps are missing, or a format has no words for it.

    Attributes
    ----------
    line : int or None
        The line that is wrong, counted from 1, if a file was read.
    """

    line: int | None

    def __init__(
        self, message: str = "", ipa: int | None = None, level: int | None = None, line: int | None = None
    ) -> None:
        super().__init__(message, ipa, level)
        self.line = line

    def __str__(self) -> str:
        message = super().__str__()
        return message if self.line is None else f"line {self.line}: {message}"


class ViolationError(S2ptError):
    """A recording breaks a rule of the protocol.

    Attributes
    ----------
    violations : tuple of s2pt.recording.Violation
        All that was found.
    """

    violations: tuple[Any, ...]

    def __init__(
        self,
        message: str = "",
        ipa: int | None = None,
        level: int | None = None,
        violations: tuple[Any, ...] = (),
    ) -> None:
        super().__init__(message, ipa, level)
        self.violations = violations


class Fault(S2ptError):  # noqa: N818
    """What the MMU would report instead of a translation.

    Attributes
    ----------
    kind : str
        ``"translation"``, ``"permission"``, ``"access-flag"`` or ``"address-size"``.
    access : str or None
        The access that faulted: ``"r"``, ``"w"`` or ``"x"``.
    """

    kind: Literal["translation", "permission", "access-flag", "address-size", "external-abort"] = "translation"
    access: str | None

    def __init__(
        self,
        message: str = "",
        ipa: int | None = None,
        level: int | None = None,
        access: str | None = None,
    ) -> None:
        super().__init__(message, ipa, level)
        self.access = access


class TranslationFault(Fault):
    """The walk ended at an invalid entry, or the IPA is beyond the input size of the table (reported at level 0)."""

    kind = "translation"


class PermissionFault(Fault):
    """The leaf does not allow the access."""

    kind = "permission"


class AccessFlagFault(Fault):
    """The leaf has its access flag clear, and the hardware is not configured to set it."""

    kind = "access-flag"


class AddressSizeFault(Fault):
    """An entry points beyond the physical address size."""

    kind = "address-size"


class GuestExit(S2ptError):  # noqa: N818
    """A guest's access that no memory resolves: the device model has to act.

    Attributes
    ----------
    reason : str
        ``"mmio"`` (no slot there), ``"read-only"`` (a write to a read-only slot), ``"fetch"`` (no memory to execute) or
        ``"address-size"`` (beyond the IPA space).
    """

    reason: str

    def __init__(self, message: str = "", ipa: int | None = None, reason: str = "") -> None:
        super().__init__(message, ipa)
        self.reason = reason
