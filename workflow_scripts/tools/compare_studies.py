"""Write the table of what the studies beside config.yaml change, from the files themselves, into docs/paper.md.

python -m workflow_scripts.tools.compare_studies --page docs/paper.md
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import write_text
from workflow_scripts.runtime.cli import run, stage_parser

STUDIES = ("paper", "released")
BEGIN, END = "<!-- studies: python -m workflow_scripts.tools.compare_studies -->\n", "<!-- end of studies -->"
NOTHING = "–"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--config", type=Path, default=Path("config.yaml"), help="the recommended study")
    parser.add_argument("--studies", type=Path, default=Path("studies"), help="folder of the others")
    parser.add_argument("--page", type=Path, default=Path("docs/paper.md"), help="file with the two marks of the table")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Replace what lies between the marks."""
    files = {name: arguments.studies / f"{name}.yaml" for name in STUDIES}
    text = arguments.page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise UserError(f"{arguments.page} needs one line {BEGIN.strip()!r} and one {END!r} after it")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    write_text(f"{before}{BEGIN}{table(arguments.config, files)}{END}{after}", arguments.page)


def table(config: Path, files: Mapping[str, Path]) -> str:
    """Markdown: one row for each key that a study of `files` (by name) changes, with its value in every study.

    Keys of several pretraining runs that change alike share a row.
    """
    import yaml

    from workflow_scripts.study.config import load_config

    shipped = yaml.safe_load(config.read_text(encoding="utf-8"))
    changes = {name: yaml.safe_load(file.read_text(encoding="utf-8")) for name, file in files.items()}
    studies = {"config": load_config(shipped, [config])}
    for name, change in changes.items():
        studies[name] = load_config(_merged(shipped, change), [config, files[name]])
    keys = dict.fromkeys(key for change in changes.values() for key in _leaves(change))
    rows: dict[tuple[str, ...], None] = {}
    for key in keys:
        values = [_at(study, key) for study in studies.values()]
        if isinstance(values[0], list):
            cells = [f"{len(values[0])} rows", *(_rows(values[0], value) for value in values[1:])]
        else:
            cells = [_cell(value, key[-1]) for value in values]
        if len(set(cells)) > 1:
            rows[re.sub(r"^pretraining\.runs\.\w+\.init$", "pretraining.runs.*.init", ".".join(key)), *cells] = None
    lines = [
        "| key | `config.yaml` | " + " | ".join(f"`studies/{name}.yaml`" for name in files) + " |",
        "|---" * (2 + len(files)) + "|",
        *("| " + " | ".join([f"`{row[0]}`", *row[1:]]) + " |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def _merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """As Snakemake lays one config over another: mappings are merged, everything else is replaced."""
    new = {
        key: _merged(base.get(key) or {}, value) if isinstance(value, Mapping) else value
        for key, value in change.items()
    }
    return {**base, **new}


def _leaves(change: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in change.items():
        # A run that a study adds is one change.
        if isinstance(value, Mapping) and "sets" not in value:
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key)


def _at(study: Any, key: tuple[str, ...]) -> Any:
    for name in key:
        study = study.get(name) if isinstance(study, Mapping) else None
    return study


def _cell(value: Any, name: str) -> str:
    if isinstance(value, Mapping):
        return f"adds `{name}`"
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _rows(base: list[Mapping[str, Any]], rows: list[Mapping[str, Any]]) -> str:
    old, new = ([row["init"] for row in each] for each in (base, rows))
    words = [f"without `{name}`" for name in old if name not in new] + [
        f"with `{name}`" for name in new if name not in old
    ]
    return ", ".join(words) or f"{len(rows)} rows"


if __name__ == "__main__":
    run(main, parser())
