"""Several processes of one training: how they start, who writes, and who has which device."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch

from workflow_scripts.core.errors import UserError
from workflow_scripts.runtime import processes
from workflow_scripts.runtime.processes import Processes, relaunch
from workflow_scripts.runtime.work import Follower, WorkDir


def test_a_command_becomes_torchrun_once(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(processes.os, "execv", lambda program, words: started.append(words))
    monkeypatch.setattr(
        sys.modules["__main__"], "__spec__", ModuleSpec("workflow_scripts.diffusion.train_diffusion", None)
    )
    monkeypatch.setattr(sys, "argv", ["train_diffusion.py", "--log", "log.txt", "--processes", "2"])
    for count in (0, 1):
        relaunch(count)
    assert not started
    relaunch(2)
    assert started[0][1:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    # Without the dashes torchrun takes --log for one of its own options.
    assert started[0][5:] == [
        "-m",
        "--",
        "workflow_scripts.diffusion.train_diffusion",
        "--log",
        "log.txt",
        "--processes",
        "2",
    ]
    monkeypatch.setenv("RANK", "0")
    relaunch(2)
    assert len(started) == 1


def test_without_torchrun_there_is_one_process() -> None:
    alone = Processes()
    assert alone.is_first
    assert alone.any(True)
    assert not alone.any(False)
    assert alone.total(torch.tensor([2.0])).tolist() == [2.0]
    assert alone.device_name("cuda:1") == "cuda:1"


def test_every_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert not Processes().is_first
    assert Processes().device_name("auto") == "cuda:1"
    assert Processes().device_name("cpu") == "cpu"
    with pytest.raises(UserError, match="names one GPU for 2 processes"):
        Processes().device_name("cuda:0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="2 processes need a GPU each, this machine shows 1"):
        Processes().device_name("auto")


def test_followers_read_and_do_not_write(tmp_path: Path) -> None:
    work = WorkDir(tmp_path / "work", {"a": 1})
    follower = Follower(tmp_path / "work")
    follower.save("state.pt", {"x": 1}, 1)
    assert follower.load("state.pt") is None
    work.save("state.pt", {"x": 2}, 2)
    assert follower.load("state.pt") == {"x": 2}
    follower.close()
    assert (tmp_path / "work").is_dir()
