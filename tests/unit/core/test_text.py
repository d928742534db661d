"""Text of others does nothing but be read: by a terminal, a spreadsheet, Markdown, LaTeX, HTML."""

import re

import pandas as pd
import pytest

from workflow_scripts.core.log import say
from workflow_scripts.core.tables import Table, write_table
from workflow_scripts.core.text import cell, plain, printable

ATTACKS = [
    "=cmd|'/C calc'!A0", "+1", "-1", "@SUM(A1)", "![x](http://evil.example/p.png)", "[x](javascript:alert(1))",
    "<img src=x onerror=alert(1)>", "</table><script>alert(1)</script>", "\\input{/etc/passwd}", "$x_1^2$", "a|b", "`x`",
    "\x1b[2Jgone", "\u202egpj.exe",
]  # fmt: skip


def test_a_terminal_obeys_no_name(capsys: pytest.CaptureFixture[str]):
    say("frame \x1b[2J\x07\u202e\udcff.png\n\tnext line, é ± 睾")
    assert capsys.readouterr().err == "frame \\x1b[2J\\x07\\u202e\\udcff.png\n\tnext line, é ± 睾\n"
    assert printable("a\nb\r") == "a\\nb\\r"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "\nx", "'=1"])
def test_a_spreadsheet_sees_text(text: str):
    assert cell(text) == "'" + text


def test_other_cells_stay_as_they_are():
    assert [cell(text) for text in ("", "a=b", "frame 1.png", "–")] == ["", "a=b", "frame 1.png", "–"]


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_name_in_a_table_is_shown_and_does_nothing(attack: str, tmp_path):
    table = Table(
        label="t", title=attack, header=("name", "n"), rows=((attack, "1"), ("b", "84.2 [80.1, 88.0]")), text_columns=1,
        notes=(attack,),
    )  # fmt: skip
    files = {kind: tmp_path / f"t.{kind}" for kind in ("csv", "md", "html", "tex")}
    write_table(table, pd.DataFrame({"name": ["a"]}), **files)
    md, html, tex = (files[kind].read_text(encoding="utf-8") for kind in ("md", "html", "tex"))
    assert not re.search(r"(?<!\\)\]\(|://|<(?!br)", md)
    assert "| b | 84.2 [80.1, 88.0] |" in md
    assert not re.search(r"<(script|img)|onerror=alert\(1\)>", html)
    assert not re.search(r"\\input|(?<!\\)\$x", tex)
    assert not re.search(r"(?<!\\)[`\[\]$*<]|://", plain(attack))
