"""Work directories: continued on a match, afresh otherwise, held by one process, given up without progress."""

import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.shared import REPOSITORY
from workflow_scripts.core.errors import UserError
from workflow_scripts.runtime import work as module
from workflow_scripts.runtime.work import Clock, WorkDir, append_metrics, trim_metrics


def test_a_match_is_continued_and_anything_else_starts_afresh(tmp_path: Path, capsys):
    first = WorkDir(tmp_path / "run", {"lr": 0.1, "steps": 5})
    first.save("state.pt", {"step": 3, "weights": torch.ones(2)}, progress=3)
    again = WorkDir(tmp_path / "run", {"lr": 0.1, "steps": 5})
    loaded = again.load("state.pt")
    assert loaded is not None
    assert loaded["step"] == 3
    assert torch.equal(loaded["weights"], torch.ones(2))
    changed = WorkDir(tmp_path / "run", {"lr": 0.2, "steps": 5})
    assert changed.load("state.pt") is None
    assert "differs in: lr" in capsys.readouterr().err


def test_two_tries_of_a_slurm_run_without_progress_end_with_an_explanation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for run in (uuid.uuid4(), uuid.uuid4()):
        monkeypatch.setenv(module.JOB_NAME, str(run))
        for _ in range(2):
            WorkDir(tmp_path / "run", {})
        with pytest.raises(UserError, match="2 tries of this training ended without progress"):
            WorkDir(tmp_path / "run", {})


@pytest.mark.parametrize("name", ["", "snakemake.sh"])  # on its own machine, or inside a SLURM job
def test_who_interrupts_a_training_may_start_it_again_however_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.setenv(module.JOB_NAME, name)
    for _ in range(5):
        WorkDir(tmp_path / "run", {})


def test_progress_allows_any_number_of_tries(tmp_path: Path):
    for step in range(1, 8):
        WorkDir(tmp_path / "run", {}).advance(step)


def test_success_removes_everything(tmp_path: Path):
    work = WorkDir(tmp_path / "run", {})
    work.save("state.pt", {"step": 1}, 1)
    work.close()
    assert not (tmp_path / "run").exists()
    assert WorkDir(tmp_path / "run", {}).load("state.pt") is None


def test_a_checkpoint_holds_no_code(tmp_path: Path):
    work = WorkDir(tmp_path / "run", {})
    torch.save({"evil": print}, tmp_path / "run" / "state.pt")
    with pytest.raises(UserError, match=r"state\.pt is damaged \(UnpicklingError\)"):
        work.load("state.pt")


def test_a_second_process_is_kept_out_until_the_first_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    holder = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print('held', flush=True); "
        "time.sleep(60)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", holder, tmp_path / "run.lock"], stdout=subprocess.PIPE, cwd=REPOSITORY
    )
    assert other.stdout is not None
    other.stdout.readline()
    monkeypatch.setattr(module, "LOCK_SECONDS", 0.1)
    with pytest.raises(UserError, match="another process works in"):
        WorkDir(tmp_path / "run", {})
    other.kill()
    other.wait()
    WorkDir(tmp_path / "run", {})


def test_the_clock_ends_before_the_limit_and_at_sigterm(monkeypatch: pytest.MonkeyPatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = Clock(10)
    assert not clock.is_over()
    now[0] += 10 * 60 - 61
    assert not clock.is_over()
    now[0] += 2
    assert clock.is_over()
    for unlimited in (Clock(None), Clock(0)):
        now[0] += 1e9
        assert not unlimited.is_over()
    clock = Clock(None)
    signal.raise_signal(signal.SIGTERM)
    assert clock.is_over()


def test_metrics_after_the_checkpoint_are_dropped_with_a_torn_line(tmp_path: Path):
    file = tmp_path / "metrics.jsonl"
    for step in range(4):
        append_metrics(file, {"step": step})
    with file.open("a") as stream:
        stream.write('17\n{"loss": 1}\n{"step": 4, "lo')
    with file.open("ab") as stream:
        stream.write(b"\xff\n")
    trim_metrics(file, 2)
    assert file.read_text() == '{"step": 0}\n{"step": 1}\n{"step": 2}\n'


def test_a_folder_that_is_no_work_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="is no work directory"):
        WorkDir(tmp_path / "work", {"a": 1})
    assert (tmp_path / "work" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("content", ["{", "[]", "{}", '[{"fingerprint": 1}]'])
def test_a_damaged_state_is_said(tmp_path: Path, content: str) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "state.json").write_text(content)
    with pytest.raises(UserError, match=r"state\.json is damaged; delete"):
        WorkDir(tmp_path / "work", {"a": 1})


def test_a_damaged_checkpoint_is_said(tmp_path: Path) -> None:
    work = WorkDir(tmp_path / "work", {"a": 1})
    work.save("state.pt", {"x": torch.zeros(1000)}, 1)
    file = tmp_path / "work" / "state.pt"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(UserError, match=r"state\.pt is damaged .*start this training afresh"):
        work.load("state.pt")


def test_a_checkpoint_with_a_flipped_bit_is_never_continued_from(tmp_path: Path) -> None:
    """Each flip is told, or lies where nothing is read (padding, dates)."""
    work = WorkDir(tmp_path / "work", {"a": 1})
    weights = torch.arange(64, dtype=torch.float32)
    work.save("state.pt", {"step": 1, "weights": weights}, 1)
    file = tmp_path / "work" / "state.pt"
    whole = file.read_bytes()
    first = whole.index(weights.numpy().tobytes())
    told = 0
    for position in [*range(0, len(whole), 7), *range(first, first + 256)]:
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        try:
            loaded = work.load("state.pt")
        except UserError as error:
            told += "delete" in str(error)
            continue
        assert loaded is not None
        assert loaded["step"] == 1
        assert torch.equal(loaded["weights"], weights)
    assert told > 256


def test_a_damaged_or_missing_block_is_said(tmp_path: Path) -> None:
    work = WorkDir(tmp_path / "work", {"a": 1})
    work.write_block("batch_0.npy", np.arange(9, dtype=np.uint8))
    assert work.read_block("batch_0.npy").tolist() == list(range(9))
    file = tmp_path / "work" / "batch_0.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    with pytest.raises(
        UserError, match=r"batch_0\.npy is damaged \(checksum\); delete .*work to start this stage afresh"
    ):
        work.read_block("batch_0.npy")
    with pytest.raises(UserError, match=r"batch_1\.npy does not exist"):
        work.read_block("batch_1.npy")
