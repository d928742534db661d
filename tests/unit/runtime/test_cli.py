"""Flags from the models: config -> flags -> settings is the identity."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.shared import REPOSITORY
from workflow_scripts.core.errors import UserError
from workflow_scripts.runtime import cli
from workflow_scripts.runtime.arguments import flags
from workflow_scripts.study.config.audit import AuditRecipe, VoteRule
from workflow_scripts.study.config.diffusion import DiffusionRecipe, MonitorRecipe
from workflow_scripts.study.config.finetuning import FinetuningRecipe
from workflow_scripts.study.config.manifold import ManifoldRecipe, PrivacyRecipe
from workflow_scripts.study.config.pretraining import PretrainingRecipe
from workflow_scripts.study.config.synthesis import SynthesisRecipe

RECIPES = [
    AuditRecipe, VoteRule, DiffusionRecipe, MonitorRecipe, FinetuningRecipe, ManifoldRecipe, PrivacyRecipe, PretrainingRecipe,
    SynthesisRecipe,
]  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES)
def test_flags_and_settings_are_inverse(recipe):
    parser = cli.stage_parser("a stage")
    cli.add_settings(parser, recipe)
    defaults = recipe()
    assert cli.settings(parser.parse_args([])) == defaults
    assert cli.settings(parser.parse_args(flags(defaults.model_dump()))) == defaults


def test_every_kind_of_value_survives():
    parser = cli.stage_parser("a stage")
    cli.add_settings(parser, PretrainingRecipe)
    changed = PretrainingRecipe().model_dump()
    changed.update(loss_con=False, projection=[8, 4], lr=1e-7, optimiser="adamw")
    changed["augmentation"]["flip"] = 0.125
    read = cli.settings(parser.parse_args(flags(changed)))
    assert read.model_dump() == changed
    assert (read.lr, read.augmentation.flip) == (1e-7, 0.125)
    with pytest.raises(ValidationError):
        read.lr = 1.0


def test_a_number_or_a_word():
    parser = cli.stage_parser("a stage")
    cli.add_settings(parser, ManifoldRecipe)
    assert [cli.settings(parser.parse_args(["--filter-k", k])).filter_k for k in ("auto", "7")] == ["auto", 7]
    with pytest.raises(UserError, match="--filter-k: 0 is less than the minimum of 1; --metric-k: 0 is less"):
        cli.settings(parser.parse_args(["--filter-k", "0", "--metric-k", "0"]))
    with pytest.raises(UserError, match="--filter-k: 'many' is not one of 'auto'"):
        cli.settings(parser.parse_args(["--filter-k", "many"]))


def test_user_errors_become_one_message(capsys, tmp_path):
    def stage(_):
        raise UserError("row 3 is wrong; mend it")

    log = tmp_path / "logs" / "stage.log"
    with pytest.raises(SystemExit) as end:
        cli.run(stage, cli.stage_parser("a stage"), ["--log", str(log)])
    assert end.value.code == 1
    assert capsys.readouterr().err == "error: row 3 is wrong; mend it\n"
    assert log.read_text() == "error: row 3 is wrong; mend it\n"


@pytest.mark.parametrize(
    ("failure", "status", "message"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "results/a.npy"),
            1,
            "results/a.npy cannot be read or written: No space",
        ),
        (OSError(errno.EROFS, "Read-only file system", "results"), 1, "results cannot be read or written: Read-only"),
        (
            PermissionError(errno.EACCES, "Permission denied", "data"),
            1,
            "data cannot be read or written: Permission denied",
        ),
        (MemoryError(), 1, "the memory does not suffice (MemoryError); compute fewer images"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried\nx"
            ),
            1,
            "the memory does not suffice ([enforce",
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 9 GiB."), 1, "the memory does not suffice (CUDA out"),
        (KeyboardInterrupt(), 130, "interrupted; the same command again continues"),
    ],
)
def test_a_full_disk_missing_rights_and_an_interrupt_are_one_line(capsys, tmp_path, failure, status, message):
    def stage(_):
        raise failure

    with pytest.raises(SystemExit) as end:
        cli.run(stage, cli.stage_parser("a stage"), ["--log", str(tmp_path / "log")])
    assert end.value.code == status
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("moment", "status", "said"), [("runtime.cli", -signal.SIGINT, ""), ("data.phantom", 130, "interr")]
)
def test_ctrl_c_at_any_moment_of_a_stage_is_one_line_at_most(tmp_path: Path, moment: str, status: int, said: str):
    """While the stage imports what it needs, and while it works."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        # A shell ignores Ctrl-C for what it starts in the background, and so for this test's processes.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == 'workflow_scripts.{moment}': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
    )
    command = [
        sys.executable,
        "-m",
        "workflow_scripts.data.make_phantom_manifest",
        "--output-manifest",
        tmp_path / "m.csv",
    ]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(tmp_path)}, cwd=REPOSITORY, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.count("\n")) == (status, int(bool(said)))
    assert done.stderr.startswith(said)


@pytest.mark.parametrize("failure", [OSError(errno.EBADF, "Bad file descriptor"), RuntimeError("shapes differ")])
def test_errors_of_the_program_keep_their_traceback(failure):
    def stage(_):
        raise failure

    with pytest.raises(type(failure), match=r"Bad file descriptor|shapes differ"):
        cli.run(stage, cli.stage_parser("a stage"), [])


def test_a_log_on_a_full_disk_keeps_nobody_from_being_told(capsys, tmp_path):
    def stage(_):
        raise UserError("row 3 is wrong")

    (tmp_path / "stage.log").symlink_to("/dev/full")
    with pytest.raises(SystemExit):
        cli.run(stage, cli.stage_parser("a stage"), ["--log", str(tmp_path / "stage.log")])
    assert capsys.readouterr().err == "error: row 3 is wrong\n"


def test_settings_outside_their_range_are_refused_by_their_flags():
    parser = cli.stage_parser("a stage")
    cli.add_settings(parser, PretrainingRecipe)
    with pytest.raises(UserError, match=r"--steps: 0 is less than.*; --augmentation.flip: 2.0 is greater than"):
        cli.settings(parser.parse_args(["--steps", "0", "--augmentation.flip", "2"]))
    with pytest.raises(
        UserError, match=r"--steps: \d+ is too large.*; --temperature: inf is not a finite number; --lr: nan is not"
    ):
        cli.settings(parser.parse_args(["--steps", str(2**70), "--lr", "nan", "--temperature", "inf"]))


def test_a_light_stage_without_settings_loads_no_pydantic():
    code = "import sys, workflow_scripts.tables.make_table, workflow_scripts.data.crop_views; sys.exit('pydantic' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


STAGE = """
import atexit, sys, types
from workflow_scripts.runtime import cli
torch = sys.modules["torch"] = types.ModuleType("torch")
torch.cuda = types.SimpleNamespace(is_available=lambda: False)
atexit.register(print, "closed")
class Slow:
    def __del__(self):
        print("taken apart")
kept = Slow()
def stage(arguments):
    print("done")
    if arguments.log is None:
        raise cli.UserError("no log")
cli.run(stage, cli.stage_parser("a stage"))
"""


def test_a_stage_with_torch_ends_at_once_and_closes_what_is_open(tmp_path):
    command = [sys.executable, "-c", STAGE]
    ended = subprocess.run([*command, "--log", tmp_path / "stage.log"], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "done\nclosed\n")
    assert (tmp_path / "stage.log").exists()
    failed = subprocess.run(command, capture_output=True, text=True)
    assert (failed.returncode, failed.stderr) == (1, "error: no log\n")


def test_idle_threads_sleep_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("KMP_BLOCKTIME", "200")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    seen = {}
    cli.run(lambda arguments: seen.update(os.environ), cli.stage_parser("x"), ["--threads", "2"])
    assert (seen["OMP_WAIT_POLICY"], seen["KMP_BLOCKTIME"], seen["OMP_NUM_THREADS"]) == ("PASSIVE", "200", "2")
