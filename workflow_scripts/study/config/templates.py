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

    Also where it is no regular file or not UTF-8, on which Snakemake would wait or end with a traceback. A file that is
    missing or no YAML is left to Snakemake.
    """
    for file in files:
        if file.exists() and _asks_for_templates(_text(file)) and os.environ.get(ALLOW) != "1":
            raise UserError(
                f"{file} is a YTE template ({MARK}): Snakemake runs the Python in it when it reads the file, which for "
                f"--configfile is before this check. Write plain YAML, or allow templates that you trust with {ALLOW}=1"
            )


def _text(file: Path) -> str:
    if not file.is_file():
        raise UserError(f"the config {file} is not a regular file; name one")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"the config {file} is not UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"the config {file} cannot be read: {error.strerror}") from None


def _asks_for_templates(text: str) -> bool:
    import yaml

    try:
        # Events, so that no tag is constructed and no alias expanded.
        events = yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        return any(isinstance(event, yaml.ScalarEvent) and event.value == MARK for event in events)
    except yaml.YAMLError:
        return False
