"""What the stages of the tables share: the flags that name rows and predictions, and how these are read."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv
from workflow_scripts.study.config.names import BASELINES

if TYPE_CHECKING:
    import pandas as pd


def add_rows(parser: argparse.ArgumentParser) -> None:
    """Add --rows."""
    parser.add_argument(
        "--rows", required=True, help="JSON list of rows {name, experiment, init, samples, switches, parameters}; "
        "parameters: JSON file of the pretraining run, which knows its number of views"
    )  # fmt: skip


def add_predictions(parser: argparse.ArgumentParser, at_least_one: bool = True) -> None:
    """Add --experiments, --predictions, --classes and --origin."""
    several = "+" if at_least_one else "*"
    parser.add_argument(
        "--experiments", nargs=several, required=True, help="names of the experiments, in the order of --predictions"
    )
    parser.add_argument(
        "--predictions", type=Path, nargs=several, required=True,
        help="CSVs of predictions: all seeds of the first experiment, then of the next",
    )  # fmt: skip
    parser.add_argument(
        "--classes", nargs=2, required=True, metavar=("NEGATIVE", "POSITIVE"), help="the two label names"
    )
    parser.add_argument("--origin", default="", help="what the numbers come from if not from patients: PHANTOM")


def add_protocol(parser: argparse.ArgumentParser) -> None:
    """Add --holdout and --pretraining-seeds: what the generator saw, and how often pretraining was repeated."""
    parser.add_argument("--holdout", choices=("none", "per_fold"), default="none", help="the protocol")
    parser.add_argument(
        "--pretraining-seeds", type=int, default=1,
        help="pretrainings of each run; fine-tuning seed s started from number s modulo this (default: 1)",
    )  # fmt: skip


def add_spread(parser: argparse.ArgumentParser) -> None:
    """Add --spread."""
    parser.add_argument(
        "--spread", choices=("released", "seeds", "runs"), default="released", help="what ± means (default: released)"
    )


def read_predictions(
    rows: Sequence[Row], experiments: Sequence[str], paths: Sequence[Path], classes: Sequence[str]
) -> dict[str, pd.DataFrame]:
    """The joined, checked predictions of each experiment; `paths` hold all seeds of the first, then of the next."""
    import pandas as pd

    from workflow_scripts.finetuning.predictions import check_predictions

    seeds, rest = divmod(len(paths), len(experiments))
    if rest or not seeds:
        raise UserError(
            f"--predictions names {len(paths)} files for {len(experiments)} experiments; each needs as many, one per "
            "seed"
        )
    predictions = {
        name: pd.concat(map(read_csv, paths[i * seeds : (i + 1) * seeds]), ignore_index=True)
        for i, name in enumerate(experiments)
    }
    missing = [row.experiment for row in rows if row.experiment not in predictions]
    if missing:
        raise UserError(f"--rows: no predictions for the experiment {missing[0]}; there are {', '.join(predictions)}")
    check_predictions(predictions, classes)
    return predictions


def read_table_rows(text: str) -> list[Row]:
    """The rows of `--rows`."""
    from workflow_scripts.core.files import read_json
    from workflow_scripts.tables.rows import Row, short_count

    try:
        entries: list[dict[str, Any]] = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"--rows is not JSON: {error}") from None
    if not entries:
        raise UserError("--rows: a table needs at least one row")
    rows = []
    for i, entry in enumerate(entries):
        if not {"name", "experiment"} <= entry.keys():
            raise UserError(f"--rows, row {i}: name and experiment are needed, there are {', '.join(entry)}")
        samples = str(entry.get("samples", "–"))
        if "parameters" in entry:
            samples = short_count(int(read_json(entry["parameters"])["views"]))
        rows.append(
            Row(
                name=entry["name"],
                experiment=entry["experiment"],
                init=entry.get("init", ""),
                samples=samples,
                switches=entry.get("switches", {}),
                is_pretrained="parameters" in entry,
            )
        )
    return rows


@dataclass(frozen=True)
class Row:
    """A row of a table: its printed name, the experiment that it shows, and its descriptive cells.

    `is_pretrained`: its network starts from a pretraining run of the study.
    """

    name: str
    experiment: str
    init: str = ""
    samples: str = "–"
    switches: Mapping[str, str] = field(default_factory=dict)
    is_pretrained: bool = False

    @property
    def is_baseline(self) -> bool:
        """Whether it shows no network."""
        return self.init in BASELINES

    @property
    def label_policy(self) -> str:
        """The label set that it learnt and is scored on; an experiment is named `<init>-<labels>[-<variant>]`."""
        parts = self.experiment.split("-")
        return parts[1] if len(parts) > 1 else ""


def short_count(count: int) -> str:
    """A number of images as the paper prints it: 880, 25.79K, 1.28M."""
    if count < 1000:
        return str(count)
    return f"{count / 1e3:.2f}K" if count < 1_000_000 else f"{count / 1e6:.2f}M"
