"""Text of others (names of files, titles of a config) in what people open: a terminal, a spreadsheet, Markdown."""

from __future__ import annotations

import html
import re


def printable(text: str, kept: str = "") -> str:
    """Text that a terminal shows as it is: control, direction and undecodable characters become `\\x1b`, but for `kept`."""
    return "".join(
        letter if letter.isprintable() or letter in kept else letter.encode("unicode_escape").decode()
        for letter in text
    )


def cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula: an apostrophe is put before what would be one."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "'")) else text


def plain(text: str) -> str:
    """User text as Markdown that shows it literally: no markup, no HTML, one line."""
    line = " ".join(text.split())
    # A bare address would become a link; with its colon as an entity it stays text.
    escaped = re.sub(r"([\\`*_{}\[\]#|~$])", r"\\\1", html.escape(line, quote=False))
    return re.sub(r"://", "&#58;//", escaped)
