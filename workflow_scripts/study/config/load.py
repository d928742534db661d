"""The validated config of a study: every mistake reported at once, with file and line, before anything runs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import ValidationError

from workflow_scripts.core.errors import UserError, listed
from workflow_scripts.study.config.base import INVALID, KeyPath, Problem, Settings
from workflow_scripts.study.config.errors import bare, is_settings, problems_of
from workflow_scripts.study.config.lines import Lines
from workflow_scripts.study.config.names import TABLES
from workflow_scripts.study.config.study import Study


def validated(merged: Mapping[str, Any], files: Sequence[Path]) -> dict[str, Any]:
    """A merged config as nested plain dicts and lists, with every default filled in.

    Keys that have no default and were left out (`labels` of a table row) stay out, but every table row gets its name; a
    pretraining run's `recipe` holds what the run changes. `files` are the config files that `merged` was merged from, the
    last one winning; they only serve to find line numbers. Raises `UserError` that lists the problems: wrong values, and what
    does not fit together among the others.
    """
    raw = dict(merged)
    try:
        study = Study.model_validate(raw)
    except ValidationError as error:
        wrong = list(problems_of(error, Study))
    else:
        return _dumped(study)
    # A second look, with what is right: pydantic runs a section's checks only where all of its keys are right.
    together = _checked(_salvaged(Study, raw, {path for path, _ in wrong}))
    lines = Lines(files)
    found = listed([f"{lines.where(path)}: {text}" for path, text in [*wrong, *together]])
    unread = [f"  (lines of {file} are not known: {reason})" for file, reason in lines.unread.items()]
    raise UserError("\n".join(["the config has mistakes:", found, *unread]))


def _dumped(study: Study) -> dict[str, Any]:
    config = study.model_dump(exclude_none=True)
    for table in TABLES:
        for row, values in zip(getattr(study.tables, table).rows, config["tables"][table]["rows"], strict=True):
            values["name"] = study.row_name(row)
    return config


def _salvaged(kind: Any, value: Any, wrong: Collection[KeyPath], path: KeyPath = ()) -> Any:
    """`value` as its type, with `INVALID` in the place of the values at the paths `wrong`."""
    kind = bare(kind)
    if path in wrong:
        return INVALID
    if is_settings(kind):
        present = {
            name: _salvaged(field.annotation, value.get(name), wrong, (*path, name))
            for name, field in kind.model_fields.items()
            if name in value or (*path, name) in wrong
        }
        return kind.model_construct(**present)
    if get_origin(kind) is dict:
        return {key: _salvaged(get_args(kind)[1], item, wrong, (*path, key)) for key, item in value.items()}
    if get_origin(kind) is list:
        return [_salvaged(get_args(kind)[0], item, wrong, (*path, i)) for i, item in enumerate(value)]
    return value


def _checked(value: Any, path: KeyPath = ()) -> Iterator[Problem]:
    """What the checks of a section and of all sections below it find."""
    if value is INVALID:
        return
    below: Iterator[tuple[str | int, Any]] = iter(())
    if isinstance(value, Settings):
        yield from (((*path, *end), text) for end, text in value.problems())
        below = iter(vars(value).items())
    elif isinstance(value, dict):
        below = iter(value.items())
    elif isinstance(value, list):
        below = iter(enumerate(value))
    for key, item in below:
        yield from _checked(item, (*path, key))
