"""Free text of the config and the manifest: each value reaches a stage as it is, or is refused in one sentence."""

import argparse
import copy
import functools
import shlex
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.shared import REPOSITORY
from workflow_scripts.core.errors import UserError
from workflow_scripts.runtime.arguments import flags
from workflow_scripts.study.config import load_config
from workflow_scripts.study.manifest import read_manifest

# Every key whose value is text of the user's choice.
KEYS = [
    ("results",), ("data", "manifest"), ("data", "root"), ("data", "patient_key"), ("data", "classes", 1),
    ("data", "frames"), ("data", "organs", 1), ("model", "backbone"), ("audit", "decisions"), ("diffusion", "model"),
    ("embedding", "network"), ("embedding", "inception", "file"), ("embedding", "inception", "url"),
    ("embedding", "timm", "file"), ("initialisations", "imagenet", "file"), ("initialisations", "imagenet", "url"),
    ("initialisations", "imagenet", "title"), ("initialisations", "imagenet", "samples"),
    ("pretraining", "runs", "ud", "title"), ("release", "title"), ("release", "licence"), ("release", "contact"),
    ("release", "readings"), ("tables", "table2", "rows", 0, "name"),
]  # fmt: skip
EXAMPLES = 10_000 // len(KEYS) + 1

PIECES = [
    "'", '"', "$(touch pwned)", "`touch pwned`", "${HOME}", "{", "}", "{wildcards.seed}", "{{x}}", "\\", "\n", "\r", "\0",
    "\x1b[31m", "-", "--epochs 1", "%", "%s", "%%", "$x_1^2$", "&", ";", "|", ">", "<script>", "=", "#", "*", "~", "!", " ",
    "\t", "é", "睾", "\u202e", "\u2028", "\ud800", "a", "Z", "0", ".", "/", "../", ":", ",", "=cmd()", "@", "[x](http://y)",
]  # fmt: skip
hostile = st.one_of(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map("".join),
    st.text(min_size=1, max_size=30),
    st.sampled_from(["x" * 10**6, "$(touch pwned)" * 100, "-" * 50, "'" * 499]),
)


@functools.cache
def shipped() -> dict:
    return yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8"))


def changed(path: tuple, value: str) -> dict:
    """The shipped config with one key set."""
    config = copy.deepcopy(shipped())
    level = config
    for key in path[:-1]:
        level = level.setdefault(key, {}) if isinstance(level, dict) else level[key]
    level[path[-1]] = value
    return config


def taken(config: dict, path: tuple) -> object:
    for key in path:
        config = config[key]
    return config


def outcome(act: Callable[[], Any]) -> tuple[Any, str | None]:
    """What it gives, or the message with which it refuses."""
    try:
        return act(), None
    except UserError as error:
        return None, str(error)


def through_a_shell(values: list[str]) -> list[str]:
    """The values as a stage's parser gets them when bash runs the command that the rules make of them."""
    if not values:
        return []
    words = flags({f"value{i}": value for i, value in enumerate(values)})
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {shlex.join(words)}"], capture_output=True, check=True)
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for i in range(len(values)):
        parser.add_argument(f"--value{i}")
    parsed = parser.parse_args(done.stdout.decode().split("\0")[:-1])
    return [getattr(parsed, f"value{i}") for i in range(len(values))]


@pytest.mark.slow
@pytest.mark.parametrize("path", KEYS, ids=lambda path: ".".join(map(str, path)))
def test_free_text_of_the_config_is_used_as_it_is_or_refused_in_one_sentence(path: tuple):
    accepted: list[str] = []

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(hostile)
    def try_one(value: str) -> None:
        config, refusal = outcome(lambda: load_config(changed(path, value), []))
        if refusal is None:
            assert taken(config, path) == value
            accepted.append(value)
        else:
            assert len(refusal) < 2000
            assert all(letter.isprintable() or letter == "\n" for letter in refusal), refusal

    try_one()
    assert through_a_shell(accepted) == accepted


@settings(max_examples=1000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(value=hostile, column=st.sampled_from(["image_id", "path", "patient_id", "organ", "label", "device", "side"]))
def test_cells_of_the_manifest_are_read_as_they_are_or_refused(tmp_path_factory, value: str, column: str):
    row = {
        "image_id": "a",
        "path": "a.png",
        "patient_id": "p",
        "organ": "testicle",
        "label": "",
        "device": "d",
        "side": "left",
    }
    row[column] = value
    file = tmp_path_factory.mktemp("manifest") / "m.csv"
    cells = ['"' + cell.replace('"', '""') + '"' for cell in row.values()]
    try:
        file.write_text(",".join(row) + "\n" + ",".join(cells) + "\n", encoding="utf-8", newline="")
    except UnicodeEncodeError:  # half of a surrogate pair cannot be in a file
        return
    rows, refusal = outcome(lambda: read_manifest(file))
    if refusal is None:
        assert rows == [{name: cell.strip() for name, cell in row.items()}]
    else:
        assert len(refusal) < 2000


def test_the_attacks_of_the_report_run_nothing():
    for value in ("x$(touch pwned)", "x --epochs 1"):
        with pytest.raises(UserError, match=r"model\.backbone"):
            load_config(changed(("model", "backbone"), value), [])
