"""Locks of a dead run are removed, those of a live one or of another host are not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from workflow_scripts.files import read_json, write_json
from workflow_scripts.study.locks import NOTE, note_run, remove_stale_locks


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
    write_json({**_note(folder), "pid": child.pid}, folder / NOTE)
    assert remove_stale_locks(folder)
    assert not list((folder / "locks").iterdir())


def test_a_process_number_used_again_is_another_process(folder: Path):
    write_json({**_note(folder), "pid": os.getpid(), "started": "1.0"}, folder / NOTE)
    assert remove_stale_locks(folder)


def test_another_host_and_an_unknown_run_are_left_alone(folder: Path):
    assert not remove_stale_locks(folder)
    write_json({**_note(folder), "host": "elsewhere", "pid": 1}, folder / NOTE)
    assert not remove_stale_locks(folder)


def _note(folder: Path) -> dict:
    note_run(folder)
    return read_json(folder / NOTE)
