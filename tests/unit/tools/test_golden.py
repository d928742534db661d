"""What the comparison of kept numbers sees: changes, rows that came or went, and nothing where only the last digits differ."""

from pathlib import Path

import pandas as pd

from tests.golden import differences, numbers
from workflow_scripts.core.files import write_csv


def kept(folder: Path, **changes: float) -> pd.DataFrame:
    table = pd.DataFrame({"name": ["UD", "UD"], "accuracy": [80.0, 70.0], "p": [0.5, float("nan")], "origin": ["", ""]})
    for name, value in changes.items():
        table.loc[0, name] = value
    write_csv(table, folder / "table2.csv")
    return numbers(folder)


def test_numbers_are_told_apart_by_table_row_and_column(tmp_path: Path):
    assert kept(tmp_path).to_numpy().tolist() == [
        ["table2", "0 UD", "accuracy", 80.0], ["table2", "0 UD", "p", 0.5], ["table2", "1 UD", "accuracy", 70.0],
    ]  # fmt: skip


def test_only_what_moved_is_shown(tmp_path: Path):
    before = kept(tmp_path)
    assert differences(before, before) == ""
    assert differences(before, kept(tmp_path, accuracy=80.0 * (1 + 1e-9))) == ""
    shown = differences(before, kept(tmp_path, accuracy=81.25))
    assert "81.25" in shown
    assert "1 UD" not in shown


def test_a_row_that_came_or_went_is_shown(tmp_path: Path):
    before = kept(tmp_path)
    assert "p" in differences(before, before[before["number"] != "p"])
    assert "1 UD" in differences(before[before["row"] != "1 UD"], before)


def test_a_column_may_have_the_name_that_pandas_gives_molten_values(tmp_path: Path):
    write_csv(pd.DataFrame({"quantity": ["threshold"], "value": [0.5]}), tmp_path / "operating_points.csv")
    assert numbers(tmp_path).to_numpy().tolist() == [["operating_points", "0 threshold", "value", 0.5]]
