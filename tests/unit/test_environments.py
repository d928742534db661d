"""Environments: every conda file pins what the lock file pins, and every rule names one."""

import ast
import os
import re
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.shared import REPOSITORY
from tests.workflow.study import ENVIRONMENT, smallest_study
from workflow_scripts.runtime.code_version import NEUTRAL, reached_modules

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


def with_dependencies(packages: list[str]) -> set[str]:
    """Packages, and what they need, by the metadata of those that are installed here."""
    found: set[str] = set()
    waiting = [canonicalize_name(name) for name in packages]
    while waiting:
        if (name := waiting.pop()) in found:
            continue
        found.add(name)
        waiting += needed(name)
    return found


@cache
def needed(package: str) -> list[str]:
    """What a package needs; nothing where it is not installed here, being another platform's."""
    try:
        found = [Requirement(text) for text in metadata.requires(package) or []]
    except metadata.PackageNotFoundError:
        return []
    return [canonicalize_name(one.name) for one in found if not one.marker or one.marker.evaluate({"extra": ""})]


def imported(file: Path) -> Iterator[str]:
    """The top-level names that a file imports when it runs, inside functions too."""
    waiting: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]
        elif not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            inner = ast.iter_child_nodes(node)
            waiting += [each for each in inner if isinstance(each, ast.stmt | ast.ExceptHandler | ast.match_case)]


# Inside functions that these stages do not call.
NOT_CALLED = {
    *((rule, "matplotlib") for rule in ("crop_views", "train_diffusion", "monitor_diffusion", "measure_denoising")),
    ("audit_canaries", "matplotlib"), ("pack_classifier", "rapidocr"), ("probe", "skimage"),
}  # fmt: skip


def test_the_environment_of_a_rule_holds_what_its_stage_imports():
    """The conda files have never been installed by conda; that they are complete is read from the code."""
    held = {}
    for file in FILES:
        pins = yaml.safe_load(file.read_text())["dependencies"][-1]["pip"]
        held[file.name] = with_dependencies([pin.partition("==")[0] for pin in pins])
    packages = {name: set(map(canonicalize_name, found)) for name, found in metadata.packages_distributions().items()}
    names = {file: set(imported(file)) for file in (REPOSITORY / "workflow_scripts").rglob("*.py")}
    missing, seen = set(), 0
    for rules in (REPOSITORY / "rules").glob("*.smk"):
        parts = re.split(r"^ *rule (\w+):$", rules.read_text(), flags=re.MULTILINE)
        for rule, body in zip(parts[1::2], parts[2::2], strict=True):
            environment = re.search(r"envs/(\w+\.yaml)", body)
            stage = re.search(r'stage\(\s*"([\w.]+)"', body)
            if not environment or not stage:
                continue
            seen += 1
            for module in {*reached_modules(stage[1]), *NEUTRAL}:
                file = REPOSITORY.joinpath(*module.split(".")).with_suffix(".py")
                found = [name for name in names.get(file, ()) if name in packages]
                missing |= {(rule, name) for name in found if not packages[name] & held[environment[1]]}
    assert seen > 40
    assert missing == NOT_CALLED


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
