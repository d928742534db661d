"""Make the table of the leak: the same fine-tuning with folds of patients and with folds of views.

Folds of views put views of one patient on both sides of the split; the table says how much that adds to the scores.

    python -m workflow_scripts.tables.make_leak_table --by-patient by_patient/seed0.csv --by-view by_view/seed0.csv \\
        --title imagenet --positive inhomogeneous \\
        --output-csv leak.csv --output-md leak.md --output-tex leak.tex --output-html leak.html
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv
from workflow_scripts.core.log import say
from workflow_scripts.core.statistics import patient_bootstrap
from workflow_scripts.core.tables import Table, number, plus_minus, write_table
from workflow_scripts.finetuning.predictions import PREDICTION_COLUMNS
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser
from workflow_scripts.tables.aggregation import SPREADS, aggregate, run_scores

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("patients kept together", "views dealt freely")
METRICS = {"accuracy": "accuracy", "f1": "F1", "auroc": "AUROC"}


def leak_numbers(by_patient: pd.DataFrame, by_view: pd.DataFrame, positive: str, spread: str) -> pd.DataFrame:
    """One row per split, in percent: `<metric>_mean`, `_std`, and `split_patients`, the share of patients whose views
    lie in more than one fold of a seed.

    The arguments are the joined predictions of two experiments that differ in their folds alone. Both are scored on the
    original labels of all views. The second row has also `difference`, `_low` and `_high`: how much more accuracy the
    leak shows, and its 95 % interval, a bootstrap over patients of the paired predictions. Raises `UserError` unless
    both predict the same views by the same seeds.
    """
    import pandas as pd

    runs = [table.set_index(["view_id", "seed"]).sort_index() for table in (by_patient, by_view)]
    if not runs[0].index.equals(runs[1].index):
        raise UserError(
            "--by-patient and --by-view are not predictions of the same views and seeds; make the older ones again"
        )
    rows = []
    for name, table in zip(SPLITS, (by_patient, by_view), strict=True):
        row: dict[str, object] = {"split": name, "split_patients": 100 * _split_share(table)}
        for metric, (mean, std) in aggregate(100 * run_scores(table, positive, "original"), spread).items():
            row |= {f"{metric}_mean": mean, f"{metric}_std": std}
        rows.append(row)
    hits = [(table["prediction"] == table["label_original"]).astype(np.int64) for table in runs]
    by_run = (hits[1] - hits[0]).groupby([runs[0]["patient_id"], runs[0].index.get_level_values("seed")])
    more, views = by_run.sum().unstack().to_numpy(), by_run.size().unstack().to_numpy()  # noqa: PD010
    low, high = patient_bootstrap(more, views)
    difference = float((more.sum(axis=0) / views.sum(axis=0)).mean())
    rows[1] |= {"difference": 100 * difference, "difference_low": 100 * low, "difference_high": 100 * high}
    return pd.DataFrame(rows)


def leak_layout(values: pd.DataFrame, name: str, seeds: int, folds: int, spread: str, origin: str) -> Table:
    """The page; `name` is what was fine-tuned."""
    header = ("folds", "patients in several folds", *METRICS.values(), "accuracy gained, 95 % CI")
    rows = []
    for row in values.to_dict("records"):
        gained = "–"
        if not np.isnan(row["difference"]):
            gained = (
                f"{row['difference']:+.1f} ({number(row['difference_low'], 1)} to {number(row['difference_high'], 1)})"
            )
        cells = [plus_minus(row[f"{metric}_mean"], row[f"{metric}_std"]) for metric in METRICS]
        rows.append((str(row["split"]), f"{row['split_patients']:.0f} %", *cells, gained))
    last = values.iloc[1]
    verdict = "no leak larger than noise shows here"
    if last["difference_low"] > 0:
        verdict = f"splitting by view adds {last['difference']:.1f} points that would not hold for a new patient"
    return Table(
        label="leak",
        title="The size of a leak: folds of views instead of patients",
        header=header,
        rows=tuple(rows),
        text_columns=1,
        notes=(
            f"Percent, mean ± std over {folds} folds × {seeds} seeds of fine-tuning from {name}, original labels of all "
            "views. The second row deals views to the folds without regard to their patient, as the paper's released code "
            "does; nothing else differs.",
            f"{SPREADS[spread]}. Accuracy gained: paired by view, 95 % bootstrap over patients.",
            f"Reading: {verdict}.",
        ),
        origin=origin,
    )


def _split_share(predictions: pd.DataFrame) -> float:
    folds = predictions.groupby(["seed", "patient_id"])["fold"].nunique()
    return float((folds > 1).mean())


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "by_patient+ by_view+")
    add_outputs(parser, "csv md tex html")
    add_parameters(parser, "title positive spread origin")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, compare, lay out, write."""
    import pandas as pd

    by_patient, by_view = (
        pd.concat([read_csv(path)[PREDICTION_COLUMNS] for path in paths], ignore_index=True)
        for paths in (arguments.by_patient, arguments.by_view)
    )
    values = leak_numbers(by_patient, by_view, arguments.positive, arguments.spread)
    seeds, folds = by_patient["seed"].nunique(), by_patient["fold"].nunique()
    page = leak_layout(values, arguments.title, seeds, folds, arguments.spread, arguments.origin)
    say(page.notes[-1])
    write_table(
        page,
        values,
        csv=arguments.output_csv,
        md=arguments.output_md,
        tex=arguments.output_tex,
        html=arguments.output_html,
    )


if __name__ == "__main__":
    run(main, parser())
