"""The environment in which Snakemake starts the stages."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def use_for_stages(repository: str) -> None:
    """Let `python -m workflow_scripts.<stage>` mean this repository and the Python that runs Snakemake.

    So it works with `snakemake --directory` and where the environment was not activated. A conda or container environment,
    where one is used, still comes before that Python.
    """
    _put_first("PYTHONPATH", repository)
    _put_first("PATH", str(Path(sys.executable).parent))


def _put_first(variable: str, folder: str) -> None:
    old = os.environ.get(variable, "")
    others = [part for part in old.split(os.pathsep) if part and part != folder]
    os.environ[variable] = os.pathsep.join([folder, *others])
