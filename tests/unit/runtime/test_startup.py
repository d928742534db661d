"""Entry points start at once: `--help` of every stage imports nothing heavy."""

import subprocess
import sys

import pytest

from tests.shared import REPOSITORY, stages

# Each of these takes 0.3 s to 10 s to import. Times are measured by `make bench-check`, not here.
HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "diffusers",
    "pandas",
    "scipy",
    "sklearn",
    "skimage",
    "matplotlib",
    "jsonschema",
}


@pytest.mark.parametrize("stage", stages())
def test_help_imports_nothing_heavy(stage: str):
    command = [sys.executable, "-X", "importtime", "-m", f"workflow_scripts.{stage}", "--help"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert not imported & HEAVY
    assert done.stdout.startswith("usage:")
