"""Locks and cluster jobs of a dead run go, those of a live one or of another host stay."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from workflow_scripts.core.files import read_json, write_json
from workflow_scripts.runtime.cluster import NOTES, cancel_orphans, note_run, remove_stale_locks


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "0.input.lock").touch()
    return tmp_path


def test_a_live_run_keeps_its_locks(folder: Path):
    note_run(folder)
    assert not remove_stale_locks(folder)
    assert list((folder / "locks").iterdir())


def test_a_dead_run_loses_them(folder: Path):
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    note(folder, pid=child.pid)
    assert remove_stale_locks(folder)
    assert not list((folder / "locks").iterdir())


def test_a_process_number_used_again_is_another_process(folder: Path):
    note(folder, started="1.0")
    assert remove_stale_locks(folder)


def test_a_lock_stays_while_any_run_lives_whatever_dead_runs_are_noted(folder: Path):
    """The second of two starts must not take the first one's lock because an older run is noted as dead."""
    living = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    note(folder, "old", started="1.0")
    note(folder, "living", pid=living.pid, started=str(psutil.Process(living.pid).create_time()))
    note_run(folder)
    assert not remove_stale_locks(folder)
    living.communicate(b"\n")
    assert remove_stale_locks(folder)


def test_another_host_and_an_unknown_run_are_left_alone(folder: Path):
    assert not remove_stale_locks(folder)
    note(folder, host="elsewhere", pid=1)
    assert not remove_stale_locks(folder)


def note(folder: Path, name: str = "other", **changes: object) -> None:
    """A note of another run: this process's, with changes."""
    own = folder / NOTES / f"{os.getpid()}.json"
    logs = read_json(own)["logs"] if own.exists() else []
    note_run(folder, logs)
    write_json({**read_json(own), **changes}, folder / NOTES / f"{name}.json")
    own.unlink()


QUEUE = """#!{python}
import pathlib, sys
queue = pathlib.Path({queue!r})
if sys.argv[0].endswith("scancel"):
    queue.write_text("")
elif "--name=5f19-07c5" in sys.argv:
    print(queue.read_text())
"""


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The jobs that a stand-in for SLURM's commands knows."""
    queue = tmp_path / "queue"
    queue.write_text("12\n13\n")
    for name in ("squeue", "scancel"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(QUEUE.format(python=sys.executable, queue=str(queue)))
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return queue


def test_the_cluster_jobs_of_a_dead_run_are_cancelled(folder: Path, queue: Path):
    log = folder / "snakemake.log"
    log.write_text("Building DAG of jobs...\nSLURM run ID: 5f19-07c5\nUsing shell: bash\n")
    note_run(folder, [str(log)])
    assert cancel_orphans(folder) == []  # the run is alive
    note(folder, started="1.0")
    assert cancel_orphans(folder) == ["12", "13"]
    assert queue.read_text() == ""
    assert not list((folder / NOTES).iterdir())  # and the run is forgotten


def test_jobs_of_other_runs_and_runs_without_a_cluster_are_left_alone(folder: Path, queue: Path):
    log = folder / "snakemake.log"
    for text in ("SLURM run ID: another\n", "Building DAG of jobs...\n"):
        log.write_text(text)
        note_run(folder, [str(log)])
        note(folder, started="1.0")
        assert cancel_orphans(folder) == []
    assert queue.read_text() == "12\n13\n"
