"""The environment in which Snakemake starts the stages."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

MIN_JOB_AGE = 300  # seconds


def use_for_stages(repository: str) -> None:
    """Let `python -m workflow_scripts.<stage>` mean this repository and the Python that runs Snakemake.

    So it works with `snakemake --directory` and where the environment was not activated. A conda or container environment,
    where one is used, still comes before that Python.
    """
    _put_first("PYTHONPATH", repository)
    _put_first("PATH", str(Path(sys.executable).parent))


def stay_with_squeue() -> None:
    """Keep Snakemake's SLURM plugin from asking sacct when one `scontrol show config` was slow.

    Without an accounting database sacct never answers, and the plugin (2.8.0) then loses sight of its jobs for good. How long
    squeue shows an ended job is taken to be SLURM's default where the controller does not say it in time.
    """
    plugin: Any = sys.modules.get("snakemake_executor_plugin_slurm")
    if plugin is not None:
        ask = plugin.get_min_job_age
        plugin.get_min_job_age = lambda: ask() or MIN_JOB_AGE


def _put_first(variable: str, folder: str) -> None:
    old = os.environ.get(variable, "")
    others = [part for part in old.split(os.pathsep) if part and part != folder]
    os.environ[variable] = os.pathsep.join([folder, *others])
