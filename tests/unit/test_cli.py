"""Flags from the schema: config -> flags -> settings is the identity."""

import shlex
import subprocess
import sys

import pytest
from workflow_scripts.study.schema import config_schema, recipe_defaults

from workflow_scripts import cli
from workflow_scripts.errors import UserError

RECIPES = [name for name in config_schema()["$defs"] if name.endswith("_recipe")]


@pytest.mark.parametrize("recipe", RECIPES)
def test_flags_and_settings_are_inverse(recipe):
    parser = cli.stage_parser("a stage")
    cli.add_settings(parser, recipe)
    defaults = recipe_defaults(recipe)
    assert cli.settings(parser.parse_args([])) == defaults
    assert cli.settings(parser.parse_args(shlex.split(cli.flags(defaults)))) == defaults


def test_every_kind_of_value_survives():
    parser = cli.stage_parser("a stage")
    cli.add_settings(parser, "pretraining_recipe")
    changed = recipe_defaults("pretraining_recipe")
    changed.update(loss_con=False, projection=[8, 4], lr=1e-7, optimiser="adamw")
    changed["augmentation"]["flip"] = 0.125
    assert cli.settings(parser.parse_args(shlex.split(cli.flags(changed)))) == changed


def test_user_errors_become_one_message(capsys, tmp_path):
    def stage(_):
        raise UserError("row 3 is wrong; mend it")

    log = tmp_path / "logs" / "stage.log"
    with pytest.raises(SystemExit) as end:
        cli.run(stage, cli.stage_parser("a stage"), ["--log", str(log)])
    assert end.value.code == 1
    assert capsys.readouterr().err == "error: row 3 is wrong; mend it\n"
    assert log.read_text() == "error: row 3 is wrong; mend it\n"


def test_settings_outside_their_range_are_refused_by_their_flags():
    parser = cli.stage_parser("a stage")
    cli.add_settings(parser, "pretraining_recipe")
    with pytest.raises(UserError, match=r"--steps: 0 is less than.*; --augmentation.flip: 2.0 is greater than"):
        cli.settings(parser.parse_args(["--steps", "0", "--augmentation.flip", "2"]))


STAGE = """
import atexit, sys, types
from workflow_scripts import cli
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
