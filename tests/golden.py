"""The numbers of the smallest study's tables, kept in the repository by platform, so that an accidental change shows in CI.

    python -m tests.golden      runs the smallest study and writes the numbers of this platform anew (`make golden`)

Training amplifies the last digit, in which processors differ: numbers are compared on the kind of processor that wrote them.
"""

from __future__ import annotations

import platform
import tempfile
from pathlib import Path

import pandas as pd
import torch
from tabulate import tabulate

from tests.shared import REPOSITORY
from tests.workflow.study import smallest_study
from workflow_scripts.core.files import read_csv, write_csv
from workflow_scripts.core.log import say

FOLDER = REPOSITORY / "tests" / "golden"
KEY = ["table", "row", "number"]
TOLERANCE = 1e-6


def platform_name() -> str:
    """System, architecture, and what the digits depend on: the processor's make and cache, and the instructions torch uses.

    For example `linux-x86_64-authenticamd-25-1-1-512_kb-avx2`.
    """
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.is_file() else []
    names = ("vendor_id", "cpu family", "model", "stepping", "cache size")
    values = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in reversed(lines))}
    processor = [values.get(name, "unknown") for name in names]
    parts = (platform.system(), platform.machine(), *processor, torch.backends.cpu.get_cpu_capability())
    return "-".join(parts).replace(" ", "_").lower()


def golden_file() -> Path:
    """The numbers of this platform."""
    return FOLDER / f"{platform_name()}.csv"


def numbers(tables: Path) -> pd.DataFrame:
    """Every number of the tables in a folder: table, row (number and name), number (column), result; NaN left out."""
    parts = []
    for file in sorted(tables.glob("*.csv")):
        table = read_csv(file)
        rows = [f"{i} {name}" for i, name in enumerate(table.iloc[:, 0])]
        values = table.select_dtypes("number").assign(table=file.stem, row=rows)
        parts.append(values.melt(["table", "row"], var_name="number", value_name="result"))
    return pd.concat(parts).dropna(subset=["result"]).sort_values(KEY, ignore_index=True)


def differences(before: pd.DataFrame, after: pd.DataFrame) -> str:
    """A table of the numbers that are not within `TOLERANCE` of before, came or went; empty where there are none."""
    both = before.merge(after, on=KEY, how="outer", suffixes=(" before", " now"))
    was, now = both["result before"], both["result now"]
    is_close = (was - now).abs() <= TOLERANCE * was.abs().clip(lower=1)
    return tabulate(both[~is_close], headers="keys", showindex=False) if not is_close.all() else ""


def main() -> None:
    """Run the smallest study, write its numbers, and say what they change."""
    with tempfile.TemporaryDirectory() as folder:
        study = smallest_study(Path(folder) / "study")
        study.snakemake("--cores", "2", "tables")
        found = numbers(study.folder / "results" / "tables")
    if golden_file().is_file():
        say(differences(read_csv(golden_file()), found) or "no number has changed")
    write_csv(found, golden_file())
    say(f"wrote {golden_file().relative_to(REPOSITORY)}; a line in CHANGELOG.md says why numbers moved")


if __name__ == "__main__":
    main()
