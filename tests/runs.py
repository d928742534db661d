"""Runs of resumable stages for tests that call a training loop without its command line."""

import argparse
from pathlib import Path

from workflow_scripts.runtime.run import Run
from workflow_scripts.runtime.work import Clock


def run_in(folder: Path, identity: dict | None = None, clock: Clock | None = None) -> Run:
    """A run on the CPU whose work directory is `folder`; its clock is never over unless `clock` says otherwise."""
    run = Run(argparse.Namespace(work_dir=folder, device="cpu", threads=1, time_limit=None))
    if clock is not None:
        run.clock = clock
    run.start(identity or {})
    return run
