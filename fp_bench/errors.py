"""Errors that a user can fix: each is one line that names the value, the limit and what to do."""

import difflib
from collections.abc import Iterable, Sequence


class UsageError(ValueError):
    """The request cannot be carried out as written; the command line exits with 2."""


class UnsupportedError(UsageError):
    """The operator or method does not define this input; a cell becomes ``status="unsupported"``."""


class NotComparableError(ValueError):
    """Two runs do not answer the same question; the command line exits with 4."""


class UnavailableError(RuntimeError):
    """A required package, device or file is missing; a cell becomes ``status="unavailable"``."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known word, else the list of known words."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(names)}"


def first_of(names: Sequence[str], most: int) -> str:
    """Return the first names in a line, and the number of further ones."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def said(error: BaseException) -> str:
    """Return an error's message in one line; an empty text if formatting it fails."""
    try:
        return " ".join(str(error).split())
    except Exception:
        return ""


def unread(error: Exception) -> str:
    """Return why a file was not read, without the file's name, which the message around it has."""
    of_system: str | None = getattr(error, "strerror", None)
    return of_system or said(error)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
