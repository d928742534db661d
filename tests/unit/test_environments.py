"""Environments: every conda file pins what the lock file pins, and every rule names one."""

import re

import pytest
import yaml

from tests.shared import REPOSITORY

LOCKED = dict(re.findall(r"^([a-z0-9-]+)==([^ \\;]+)", (REPOSITORY / "requirements.lock").read_text(), re.MULTILINE))
FILES = sorted((REPOSITORY / "envs").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_pins_are_the_lock_files(file):
    dependencies = yaml.safe_load(file.read_text())["dependencies"]
    pins = dict(entry.split("==") for entry in dependencies[-1]["pip"])
    assert pins == {name: LOCKED[name] for name in pins}


def test_every_environment_is_used_and_exists():
    used = {
        name
        for rules in (REPOSITORY / "rules").glob("*.smk")
        for name in re.findall(r"envs/(\w+\.yaml)", rules.read_text())
    }
    assert used == {file.name for file in FILES}


def test_the_lock_file_names_no_registry():
    text = (REPOSITORY / "requirements.lock").read_text()
    assert not re.search(r"https?://|--index-url|--find-links", text)
