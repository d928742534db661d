"""The rows of the paper's tables, by the keys with which `paper:` of a table row in the config names them.

paper_tables.csv holds them with the numbers that the paper prints. The rows of table1_protocols have none: the paper only
says, in a footnote, which numbers of exceedances it tried.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from workflow_scripts.core.files import read_rows

PAPER = Path(__file__).with_name("paper_tables.csv")


@cache
def paper_rows(table: str) -> dict[str, str]:
    """Key and name of each row of one of the paper's tables, in its order; empty for a table that the paper lacks."""
    return {row["key"]: row["row"] for row in read_rows(PAPER) if row["table"] == table}
