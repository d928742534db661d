"""Draw the loss curves of the pretraining runs and of the diffusion model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from workflow_scripts.cli import run, stage_parser
from workflow_scripts.errors import UserError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--names", nargs="*", default=[], help="names of the trainings, in the order of --metrics")
    parser.add_argument("--metrics", type=Path, nargs="*", default=[], help="metrics.jsonl of each training")
    parser.add_argument("--origin", default="", help="what the views are if not patients': PHANTOM")
    parser.add_argument("--output", type=Path, required=True, help="PNG")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, draw."""
    from workflow_scripts.evaluation.figures import CURVES, save, training_figure

    if len(arguments.names) != len(arguments.metrics) or not arguments.names:
        raise UserError(
            f"--names names {len(arguments.names)} trainings, --metrics {len(arguments.metrics)}; one of each is needed"
        )
    runs = {name: read_metrics(path) for name, path in zip(arguments.names, arguments.metrics, strict=True)}
    for name, rows in runs.items():
        if not any(row.get(key) is not None for row in rows for key in CURVES):
            raise UserError(f"the metrics of {name} hold none of {', '.join(CURVES)}")
    save(training_figure(runs, arguments.origin), arguments.output)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


if __name__ == "__main__":
    run(main, parser())
