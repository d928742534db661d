"""The rows of a table and the predictions that they show, as the stages of the tables read them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv, read_json
from workflow_scripts.study.config.names import BASELINES
from workflow_scripts.study.protocol import made_with, not_comparable

if TYPE_CHECKING:
    import pandas as pd


def read_predictions(
    rows: Sequence[Row], experiments: Sequence[str], paths: Sequence[Path], classes: Sequence[str]
) -> dict[str, pd.DataFrame]:
    """The joined, checked predictions of each experiment; `paths` hold all seeds of the first, then of the next."""
    import pandas as pd

    from workflow_scripts.finetuning.predictions import check_predictions

    seeds, rest = divmod(len(paths), len(experiments))
    if rest or not seeds:
        raise UserError(
            f"--predictions names {len(paths)} files for {len(experiments)} experiments; each experiment needs the same "
            "number of files, one per seed"
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


def protocol_notes(protocol: str, curves: Sequence[Path], beside_the_papers: bool) -> list[str]:
    """Sentences of a caption from the JSON of `--protocol`: how the synthetic views were made, and what is not the paper's.

    `curves`: the filter's curve of each generator, where the numbers depend on one; `beside_the_papers`: whether the paper's
    numbers are printed too.
    """
    if not protocol:
        return []
    facts = json.loads(protocol)
    real_views = [int(read_csv(curve, "curve")["real_views"].iloc[0]) for curve in curves]
    sentences = [made_with(facts, real_views)] if real_views else []
    return [*sentences, *filter(None, [not_comparable(facts, real_views)] if beside_the_papers else [])]


def read_table_rows(text: str) -> list[Row]:
    """The rows of a table from the JSON of `--rows`; `parameters` is the file of a row's pretraining run."""
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
                paper=entry.get("paper", ""),
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

    `is_pretrained`: its network starts from a pretraining run of the study. `paper`: the row of the paper's table that it
    repeats, by key (study/paper.py); empty if none.
    """

    name: str
    experiment: str
    init: str = ""
    samples: str = "–"
    switches: Mapping[str, str] = field(default_factory=dict)
    is_pretrained: bool = False
    paper: str = ""

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
