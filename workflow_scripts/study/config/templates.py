"""Configs that are programs: Snakemake renders a YAML file that holds `__use_yte__` with YTE, which runs Python in it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from workflow_scripts.core.errors import UserError

MARK = "__use_yte__"
ALLOW = "TUSFLOW_TEMPLATES"  # set to 1 by whoever starts Snakemake: a file cannot vouch for itself


def refuse_templates(files: Iterable[Path]) -> None:
    """Raise `UserError` where a config file asks for YTE and the environment does not allow it (`TUSFLOW_TEMPLATES=1`).

    A file that is no YAML, or cannot be read, is left to whoever reads it next.
    """
    for file in files:
        if os.environ.get(ALLOW) != "1" and file.is_file() and _asks_for_templates(file):
            raise UserError(
                f"{file} is a YTE template ({MARK}): Snakemake runs the Python in it when it reads the file, which for "
                f"--configfile is before this check. Write plain YAML, or allow templates that you trust with {ALLOW}=1"
            )


def _asks_for_templates(file: Path) -> bool:
    import yaml

    try:
        # Events, so that no tag is constructed and no alias expanded.
        events = yaml.parse(file.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        return any(isinstance(event, yaml.ScalarEvent) and event.value == MARK for event in events)
    except (yaml.YAMLError, UnicodeDecodeError, OSError):
        return False
