"""Score the rows of a table by device, scanner and centre: does the classifier work on each of them?

Patients are scored on the views of one group, out of fold, and compared with those of all other groups.

    python -m workflow_scripts.tables.make_groups --rows '[{"name": "UD", "experiment": "ud-flipped"}]' \\
        --experiments ud-flipped --predictions finetuning/ud-flipped/seed0.csv --index views/labelled.csv \\
        --groups scanner --classes homogeneous inhomogeneous \\
        --output-csv groups.csv --output-md groups.md --output-tex groups.tex --output-html groups.html
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv
from workflow_scripts.core.statistics import times_drawn, with_interval
from workflow_scripts.core.tables import Table, write_table
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser
from workflow_scripts.tables.make_levels import organ_side_predictions, patient_predictions
from workflow_scripts.tables.reading import signed
from workflow_scripts.tables.redraws import drawn_scores
from workflow_scripts.tables.rows import Row, read_predictions, read_table_rows

if TYPE_CHECKING:
    import pandas as pd

SHOWN = {"auroc": "AUROC", "accuracy": "accuracy", "sensitivity": "sensitivity", "specificity": "specificity"}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "predictions+ index")
    add_outputs(parser, "csv md tex html")
    add_parameters(parser, "rows experiments groups split_by classes origin")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, split, score, write."""
    classes = arguments.classes
    rows = read_table_rows(arguments.rows)
    predictions = read_predictions(rows, arguments.experiments, arguments.predictions, classes)
    index = read_csv(arguments.index)
    missing = [column for column in arguments.groups if column not in index]
    if missing:
        raise UserError(f"{arguments.index} has no column {missing[0]}; crop the views again")
    values = group_numbers(rows, predictions, index, arguments.groups, classes)
    page = layout(values, arguments.groups, classes[1], arguments.split_by, arguments.origin)
    write_table(
        page, values, csv=arguments.output_csv, md=arguments.output_md, tex=arguments.output_tex,
        html=arguments.output_html,
    )  # fmt: skip


def group_numbers(
    rows: Sequence[Row], predictions: Mapping[str, pd.DataFrame], index: pd.DataFrame, columns: Sequence[str],
    classes: Sequence[str],
) -> pd.DataFrame:  # fmt: skip
    """Metrics by patient on the original labels in percent, one row per table row and group.

    `predictions` maps an experiment to its joined table. Each metric is the mean over the seeds; `_low` and `_high` hold 95 %
    of what redrawn patients give. `difference`: AUROC less that on the views of all other groups of the column.
    """
    import pandas as pd

    table = []
    for row in rows:
        views = predictions[row.experiment]
        patients = sorted(views["patient_id"].unique())
        times = times_drawn(len(patients))
        for column in columns:
            group_of = views["view_id"].map(index.set_index("view_id")[column])
            for group in sorted(group_of.unique()):
                inside, outside = (
                    _scores(views[part], index, patients, times, classes)
                    for part in (group_of == group, group_of != group)
                )
                first = index[(index[column] == group) & index["view_id"].isin(views["view_id"])]
                positive = first.loc[first["label"] == classes[1], "patient_id"]
                values: dict[str, object] = {
                    "name": row.name, "experiment": row.experiment, "column": column, "group": group,
                    "patients": first["patient_id"].nunique(), "positives": positive.nunique(), "views": len(first),
                }  # fmt: skip
                for metric, draws in inside.items():
                    values |= with_interval(metric, 100 * draws)
                values |= with_interval("difference", 100 * (inside["auroc"] - outside["auroc"]))
                table.append(values)
    return pd.DataFrame(table)


def _scores(
    views: pd.DataFrame, index: pd.DataFrame, patients: Sequence[str], times: np.ndarray, classes: Sequence[str]
) -> dict[str, np.ndarray]:
    """Mean over the seeds of the metrics of the patients of `views` under each redraw, (D,) each."""
    units = patient_predictions(views, organ_side_predictions(views, index, classes), classes)
    by_seed = []
    for _, part in units.groupby("seed"):
        drawn = times[:, np.searchsorted(patients, part["patient_id"])]
        by_seed.append(drawn_scores(part["probability"].to_numpy(), (part["truth"] == classes[1]).to_numpy(), drawn))
    return {metric: np.mean([scores[metric] for scores in by_seed], axis=0) for metric in by_seed[0]}


def layout(values: pd.DataFrame, columns: Sequence[str], positive: str, split_by: str, origin: str) -> Table:
    """A line per row and group, the groups of a row together."""
    cells, rules = [], []
    for i, (_, value) in enumerate(values.iterrows()):
        is_first = i == 0 or value["name"] != values["name"].iloc[i - 1]
        rules += [i] if is_first and i else []
        shown = [_interval(value, name) for name in ("auroc", "difference", *list(SHOWN)[1:])]
        counts = (str(value["patients"]), str(value["positives"]))
        cells.append((value["name"] if is_first else "", f"{value['column']}: {value['group']}", *counts, *shown))
    notes = [
        "Percent, by patient on the original labels, out of fold, mean over the seeds: a patient's probability is the mean over "
        f"the views of the group, and is called {positive} above 0.5. A patient is {positive} if any organ side in these views "
        "is.",
        "Brackets: 95 % over patients, drawn with replacement, given the trained networks. A dash: a group of one class.",
        "Less the others: AUROC in the group less AUROC on the views of all other groups, of the same draws.",
    ]
    if split_by in columns:
        notes.append(f"Each fold is one {split_by}: the networks that predict a {split_by} have not seen it.")
    return Table(
        label="groups",
        title=f"By {' and '.join(columns)}",
        header=("row", "group", "patients", positive, "AUROC", "less the others", *list(SHOWN.values())[1:]),
        rows=tuple(cells),
        text_columns=2,
        notes=tuple(notes),
        rules=tuple(rules),
        origin=origin,
    )


def _interval(value: pd.Series, name: str) -> str:
    if value[name] != value[name]:
        return "–"
    return f"{signed(value[name], 1)} ({signed(value[f'{name}_low'], 1)} to {signed(value[f'{name}_high'], 1)})"


if __name__ == "__main__":
    run(main, parser())
