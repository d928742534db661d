"""Entry points start at once: `--help` of every stage, and no torch in what answers it."""

import os
import subprocess
import sys

import pytest

from tests.shared import REPOSITORY

LIMIT = 0.5  # seconds of processor time, which a busy machine does not stretch
TRIES = 3
STAGES = sorted(
    file.stem
    for file in (REPOSITORY / "workflow_scripts").glob("*.py")
    if 'if __name__ == "__main__":' in file.read_text(encoding="utf-8")
)


def help_of(stage: str) -> tuple[float, str]:
    """Processor seconds of `--help`, and the modules that Python imported meanwhile."""
    command = [sys.executable, "-X", "importtime", "-m", f"workflow_scripts.{stage}", "--help"]
    before = os.times()
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    after = os.times()
    return sum(after[2:4]) - sum(before[2:4]), done.stderr


@pytest.mark.parametrize("stage", STAGES)
def test_help_comes_at_once_and_without_torch(stage: str):
    seconds, imports = help_of(stage)
    for _ in range(TRIES - 1):
        if seconds < LIMIT:
            break
        seconds = min(seconds, help_of(stage)[0])
    assert seconds < LIMIT
    assert not any(line.endswith((" torch", " torchvision", " timm", " diffusers")) for line in imports.splitlines())
