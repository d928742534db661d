"""The interruptions of `make test-faults`, on a workflow that takes a second: what they record, continue and notice."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import measure
from tests import faults
from tests.workflow.study import Study

Start = Callable[..., tuple[int, list[dict[str, Any]]]]
# Four files, one after the other, each written whole or not at all; a lock keeps a second start away. However slow the
# machine is, an interrupted study does not end before its first interruption.
WORKFLOW = """
import os, pathlib, sys, time
folder, harm = pathlib.Path(sys.argv[1]), sys.argv[2:]
disturbed = folder.name != "reference"
lock = folder / "lock"
if lock.exists() and pathlib.Path("/proc", lock.read_text() or "0").exists():
    sys.exit("Directory cannot be locked")
lock.write_text(str(os.getpid()))
tables = folder / "results" / "tables"
tables.mkdir(parents=True, exist_ok=True)
for number in range(4):
    print(f"rule step{number}:", flush=True)
    file, part = tables / f"{number}.csv", tables / f"part{os.getpid()}"
    if not file.exists():
        time.sleep(0.05)
        for _ in range(500):
            if not disturbed or (folder / "moments.json").exists():
                break
            time.sleep(0.01)
        part.write_text("different" if harm and disturbed else "same")
        part.replace(file)
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """`make test-faults` on that workflow; returns its status and its record."""
    (tmp_path / "workflow.py").write_text(WORKFLOW)
    harm: list[str] = []

    def smallest_study(folder: Path) -> Study:
        folder.mkdir(parents=True)
        (folder / "data_manifest.csv").touch()
        return Study(folder, [])

    monkeypatch.setattr(faults, "smallest_study", smallest_study)
    monkeypatch.setattr(
        Study, "command", lambda study, *_: [sys.executable, str(tmp_path / "workflow.py"), str(study.folder), *harm]
    )
    for module in (faults, measure):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(faults, "PAGE", tmp_path / "reliability.md")

    def start(moments: int, *harms: str) -> tuple[int, list[dict[str, Any]]]:
        harm[:] = harms
        # With this seed the first signal comes late, when the lock is there.
        words = f"faults --moments {moments} --seed 14 --longest 0.4 --folder".split()
        monkeypatch.setattr(sys, "argv", [*words, str(tmp_path / "studies")])
        return faults.main(), json.loads((tmp_path / "faults.json").read_text())["rows"]

    return start


def test_moments_add_up_and_the_page_tells_them(run: Start, tmp_path: Path) -> None:
    status, first = run(1)
    assert status == 0
    assert all(row["equal"] for row in first)
    assert first[0]["second_start"] in ("refused", "found everything done")
    (tmp_path / "studies" / "interrupted0").mkdir()  # of a run that was killed before it tidied up
    (tmp_path / "studies" / "interrupted0" / "moments.json").write_text(json.dumps(first))
    status, rows = run(len(first) + 1)
    assert (status, rows[: len(first)]) == (0, first)
    assert [row["number"] for row in rows] == list(range(len(rows)))
    assert f"{len(rows)} moments" in (tmp_path / "reliability.md").read_text()


def test_a_table_that_differs_is_noticed(run: Start) -> None:
    status, rows = run(1, "harm")
    assert status == 1
    assert not any(row["equal"] for row in rows)
