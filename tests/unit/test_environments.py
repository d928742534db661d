"""Environments: every conda file pins what the lock file pins, and every rule names one."""

import os
import re

import pytest
import yaml

from tests.shared import REPOSITORY
from tests.workflow.study import ENVIRONMENT, smallest_study

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


def test_the_container_holds_the_lock_file_and_the_makefiles_installer():
    recipe = (REPOSITORY / "envs" / "tusflow.def").read_text()
    header, *sections = re.split(r"^%(?=\w+$)", recipe, flags=re.MULTILINE)
    parts = {section.partition("\n")[0]: section for section in sections}
    assert dict(re.findall(r"^(\w+): (\S+)$", header, re.MULTILINE)).keys() == {"Bootstrap", "From"}
    assert "From: python:3.11-" in header
    for line in parts["files"].splitlines()[1:]:
        source, _, target = line.strip().partition(" ")
        assert not source or (REPOSITORY / source).is_file()
        assert not target or f"--requirements {target}" in parts["post"]
    uv = re.search(r"UV_VERSION := (\S+)", (REPOSITORY / "Makefile").read_text())
    assert uv
    assert f"uv=={uv[1]}" in parts["post"]


APPTAINER = """#!/bin/sh
# A stand-in: notes its arguments and runs the command without a container.
[ "$1" = --version ] && { echo "apptainer version 1.3.4"; exit; }
echo "$@" >> "$APPTAINER_CALLS"
while [ "$1" != tusflow.sif ]; do shift; done
shift
exec "$@"
"""


@pytest.mark.slow
def test_with_sdm_apptainer_jobs_run_in_the_container(tmp_path, monkeypatch: pytest.MonkeyPatch):
    program, calls = tmp_path / "bin" / "apptainer", tmp_path / "calls"
    program.parent.mkdir()
    program.write_text(APPTAINER)
    program.chmod(0o755)
    monkeypatch.setitem(ENVIRONMENT, "PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setitem(ENVIRONMENT, "APPTAINER_CALLS", str(calls))
    study = smallest_study(tmp_path / "study")
    study.snakemake("--cores", "1", "--sdm", "apptainer", "--apptainer-args=--nv", "results/phantoms/frames.csv")
    assert "exec --home" in calls.read_text()
    assert "--nv" in calls.read_text()
    assert "python -m workflow_scripts.data.draw_phantoms" in calls.read_text()
    assert (study.folder / "results/phantoms/frames.csv").exists()
