"""Text of others (names of files, titles of a config) in what people open: a terminal, a spreadsheet, Markdown."""

from __future__ import annotations

import html
import re
import unicodedata


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


def line_problem(text: str) -> str:
    """What keeps text from being shown as it is by a command line, a table and a page, as the end of a sentence; or ""."""
    strange = next((letter for letter in text if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp")), None)
    if strange is not None:
        return f"holds the character {strange!r}; write it on one line, without control characters"
    if text != text.strip():
        return "begins or ends with white space"
    if text.startswith("-"):
        return "begins with a dash, which a command line would take for an option"
    if text.startswith(("=", "+", "@")):
        return f"begins with {text[0]}, which a spreadsheet that opens a table would take for a formula"
    return ""


def name_problem(text: str) -> str:
    """`line_problem` of a name, which figures show beside others: two $ of two names would become mathematics."""
    if "$" in text:
        return "holds $, and figures would take what is between two of them for mathematics"
    return line_problem(text)
