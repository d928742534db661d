"""One GPU per job: which devices a process may use, and that no two jobs get the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shared import REPOSITORY
from workflow_scripts.core.errors import UserError
from workflow_scripts.runtime.gpus import claim_gpus, lock_folder, visible_devices

HOLDER = """
import os, sys
from workflow_scripts.runtime.gpus import claim_gpus
print(*claim_gpus(int(sys.argv[1])), os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of its own with three GPUs, of which this user may use two."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr("workflow_scripts.runtime.gpus._held", [])


def holder(count: int = 1) -> tuple[subprocess.Popen, list[str]]:
    """Another process that has claimed GPUs, and what it got."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(count)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().split()


def test_devices_are_those_that_cuda_would_show(tmp_path: Path):
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert visible_devices({}, tmp_path) == ["0", "1"]
    assert visible_devices({"CUDA_VISIBLE_DEVICES": "3, GPU-5f19"}, tmp_path) == ["3", "GPU-5f19"]
    assert visible_devices({"CUDA_VISIBLE_DEVICES": "1,-1,0"}, tmp_path) == ["1"]
    assert visible_devices({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == []


def test_each_process_gets_a_device_of_its_own_until_it_ends():
    first, got = holder()
    assert got == ["2", "2"]
    second, got = holder()
    assert got == ["0", "0"]
    with pytest.raises(UserError, match="no 1 of the GPUs 2, 0 became free"):
        claim_gpus(patience=0.1, seconds=0.05)
    first.kill()
    first.wait()
    assert claim_gpus(patience=5, seconds=0.05) == ["2"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2"
    second.communicate("")


def test_two_devices_are_claimed_together_or_not_at_all():
    one, _ = holder()
    with pytest.raises(UserError):
        claim_gpus(2, patience=0.1, seconds=0.05)
    three, got = holder()  # the one that was free has been given back
    assert got == ["0", "0"]
    for process in (one, three):
        process.communicate("")
    assert claim_gpus(2, patience=5, seconds=0.05) == ["2", "0"]


@pytest.mark.parametrize("variables", [{"CUDA_VISIBLE_DEVICES": ""}, {"LOCAL_RANK": "1"}])
def test_without_a_gpu_and_below_torchrun_nothing_is_claimed(variables: dict, monkeypatch: pytest.MonkeyPatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert claim_gpus() == []
    assert not lock_folder(os.environ).exists()


def test_jobs_of_slurm_that_share_a_node_do_not_wait_for_each_other(monkeypatch: pytest.MonkeyPatch):
    # Device 0 of either is another GPU.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    process, got = holder()
    monkeypatch.setenv("SLURM_JOB_ID", "18")
    assert [*claim_gpus(patience=0.1), "0"] == got
    process.communicate("")
