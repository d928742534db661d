"""The one exception for what a user can mend, and what keeps its message short."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

# Characters of a message, and of the end of one that is too long.
LONGEST_MESSAGE, LONGEST_END = 1990, 400
# Characters of a listed mistake, and of all that are listed together; the others are counted.
LONGEST_MISTAKE, LONGEST_LIST = 1500, 1800
LONGEST_VALUE, SHOWN_NAMES = 80, 20
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist, _SHORT.maxstring, _SHORT.maxlong = 2, 3, 3, 60, 40


class UserError(Exception):
    """A mistake in the input, the config or the surroundings; its text is the whole message, cause and way out.

    Of a text longer than `LONGEST_MESSAGE`, which may quote what somebody else wrote, the beginning and the end stay.
    """

    def __init__(self, text: str) -> None:
        if len(text) > LONGEST_MESSAGE:
            text = f"{text[: LONGEST_MESSAGE - LONGEST_END]} … {text[-LONGEST_END:]}"
        super().__init__(text)


class Lacking(UserError, KeyError):
    """A file lacks a column or a key; a `KeyError` as well, so that `get` and `except KeyError` work as ever."""

    __str__ = Exception.__str__


def listed(mistakes: Sequence[str]) -> str:
    """Mistakes, one a line, as many as fit into a message that a terminal shows whole."""
    lines = [f"  {mistake[:LONGEST_MISTAKE]}" for mistake in mistakes]
    shown = sum(end <= LONGEST_LIST for end in accumulate(len(line) + 1 for line in lines)) or 1
    more = [f"  … and {len(lines) - shown} more"] if shown < len(lines) else []
    return "\n".join([*lines[:shown], *more])


def names(known: Iterable[str]) -> str:
    """Names for a message, sorted and not too many."""
    found = sorted(known)
    more = f" and {len(found) - SHOWN_NAMES} more" if len(found) > SHOWN_NAMES else ""
    return (", ".join(name[:60] for name in found[:SHOWN_NAMES]) or "none") + more


def short(value: Any) -> str:
    """A value as a message shows it, however large it is."""
    try:
        text = _SHORT.repr(value)
    except ValueError:  # Python does not write out numbers of more than 4300 digits
        text = "a very long number"
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"
