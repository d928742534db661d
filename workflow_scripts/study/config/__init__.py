"""The config of a study: one module per section, each a pydantic model with type, range, default and meaning of its keys.

A stage imports the model of its own settings (`workflow_scripts.study.config.finetuning`), the rules import `load_config`.
This module itself imports no pydantic, so that what needs only a name stays quick to start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workflow_scripts.study.config.names import BASELINES, LABELLED_SET, SYNTHETIC_SETS, TABLES

__all__ = ["BASELINES", "LABELLED_SET", "SYNTHETIC_SETS", "TABLES", "load_config"]


def load_config(merged: Mapping[str, Any], files: Sequence[Path]) -> dict[str, Any]:
    """Validate a merged config and fill in the defaults; see `load.validated`."""
    from workflow_scripts.study.config.load import validated

    return validated(merged, files)
