"""Aggregate predictions from views to organ sides and patients, and tabulate the metrics at each level.

It is what a clinic asks: not about a view, but about an organ side and a patient (paper, Sec. 3: two views of each
testicle). The rows are those of a table of fine-tuning. Truths are the original labels.

    python -m workflow_scripts.tables.make_levels --rows '[{"name": "UD", "experiment": "ud-flipped"}]' \\
        --experiments ud-flipped --predictions finetuning/ud-flipped/seed0.csv --index views/labelled.csv \\
        --classes homogeneous inhomogeneous --output-organ-sides organ_sides.csv --output-patients patients.csv \\
        --output-csv levels.csv --output-md levels.md --output-tex levels.tex --output-html levels.html
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv, write_csv
from workflow_scripts.core.log import say
from workflow_scripts.core.tables import Table, plus_minus, write_table
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser
from workflow_scripts.tables.aggregation import SPREADS, aggregate, run_scores
from workflow_scripts.tables.rows import Row, read_predictions, read_table_rows
from workflow_scripts.tables.tables import HEADERS

if TYPE_CHECKING:
    import pandas as pd

LEVELS = ("view", "organ_side", "patient")
NO_ORGAN_SIDES = (
    "No organ side has more than one view (the manifest's column `side`), so its lines would repeat the views'."
)
SHOWN = ("accuracy", "f1", "balanced_accuracy", "auroc")
UNIT_COLUMNS = ["patient_id", "fold", "seed", "views", "probability", "truth", "prediction"]


def shown_levels(organ_sides: pd.DataFrame) -> list[str]:
    """`LEVELS`, without organ sides (as `organ_side_predictions` returns them) where none of them has several views."""
    return [level for level in LEVELS if level != "organ_side" or (organ_sides["views"] > 1).any()]


def named_organ_sides(index: pd.DataFrame) -> pd.DataFrame:
    """Columns view_id and organ_side, a name made of patient and side: `P001 left`.

    A frame whose side is unknown is an organ side of its own, numbered within its patient: `P001 frame 2`. `index` is that
    of a view store.
    """
    import pandas as pd

    from workflow_scripts.study.patients import numbered_organ_sides

    numbers = numbered_organ_sides(index)
    sides = index["side"].where(index["side"] != "", None)
    frames = numbers[sides.isna()].groupby(index["patient_id"]).transform(lambda column: pd.factorize(column)[0] + 1)
    names = index["patient_id"] + " " + sides.fillna("frame " + frames.astype(str))
    return pd.DataFrame({"view_id": index["view_id"], "organ_side": names})


def organ_side_truths(index: pd.DataFrame, classes: Sequence[str]) -> tuple[pd.Series, int]:
    """The label of each organ side, by name, and the number of organ sides whose views disagree.

    The majority of its views' labels in `index`; a tie is positive (the second of `classes`).
    """
    import pandas as pd

    organ_side = named_organ_sides(index)["organ_side"]
    share = (index["label"] == classes[1]).groupby(organ_side).mean()
    truth = pd.Series(np.where(share >= 0.5, classes[1], classes[0]), index=share.index)
    return truth, int(((share > 0) & (share < 1)).sum())


def organ_side_predictions(predictions: pd.DataFrame, index: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """One row per organ side and seed: organ_side, patient_id, fold, seed, views, probability, truth, prediction.

    `predictions` is an experiment's joined table; the probability is the mean over the views, decided like a view's.
    `UserError` where a view is not in `index`, or where the views of an organ side lie in several folds.
    """
    unknown = ~predictions["view_id"].isin(index["view_id"])
    if unknown.any():
        raise UserError(
            f"the predictions hold the view {predictions['view_id'][unknown].iloc[0]}, which the index lacks; "
            "predictions and index must come from the same crop"
        )
    predicted = index[index["view_id"].isin(predictions["view_id"])]
    views = predictions.merge(named_organ_sides(index), on="view_id", validate="m:1")
    organ_sides = _mean_over_views(views, "organ_side", classes)
    truth, _ = organ_side_truths(predicted, classes)
    return organ_sides.assign(truth=organ_sides["organ_side"].map(truth))[["organ_side", *UNIT_COLUMNS]]


def patient_predictions(predictions: pd.DataFrame, organ_sides: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """One row per patient and seed, columns as for `organ_side_predictions` without the organ side.

    A patient is positive if any organ side of `organ_sides` (as `organ_side_predictions` returns them) is; the probability is
    the mean over all views.
    """
    patients = _mean_over_views(predictions, "patient_id", classes)
    is_positive = (organ_sides["truth"] == classes[1]).groupby(organ_sides["patient_id"]).any()
    truth = patients["patient_id"].map(is_positive).map({True: classes[1], False: classes[0]})
    return patients.assign(truth=truth)[UNIT_COLUMNS]


def _mean_over_views(views: pd.DataFrame, unit: str, classes: Sequence[str]) -> pd.DataFrame:
    from workflow_scripts.finetuning.predictions import decide

    groups = views.groupby([unit, "seed"])
    if (groups["fold"].min() != groups["fold"].max()).any():
        raise UserError(
            f"the views of one {unit.removesuffix('_id').replace('_', ' ')} lie in several folds, so no fold predicts it as a "
            "whole; organ sides and patients need `split_by: patient`"
        )
    kept = {} if unit == "patient_id" else {"patient_id": ("patient_id", "first")}
    table = groups.agg(
        **kept, fold=("fold", "first"), views=("view_id", "size"), probability=("probability", "mean")
    ).reset_index()
    return table.assign(prediction=decide(table["probability"].to_numpy(), classes))


def level_numbers(
    rows: Sequence[Row], units: Mapping[str, Mapping[str, pd.DataFrame]], positive: str, spread: str
) -> pd.DataFrame:
    """Metrics (percent) on the original labels, one row per table row and level.

    `units` maps an experiment to its tables by level: `view`, its predictions; `organ_side`, if it is shown, and `patient`, as
    the functions above return them. Columns: name, experiment, level, units, positives, `<metric>_mean`, `<metric>_std`.
    """
    import pandas as pd

    table = []
    for row in rows:
        for level, frame in units[row.experiment].items():
            if level != "view":
                frame = frame.rename(columns={"truth": "label_original"})
            first = frame[frame["seed"] == frame["seed"].min()]
            values: dict[str, object] = {"name": row.name, "experiment": row.experiment, "level": level}
            values |= {"units": len(first), "positives": int((first["label_original"] == positive).sum())}
            for metric, (mean, std) in aggregate(100 * run_scores(frame, positive, "original"), spread).items():
                values |= {f"{metric}_mean": mean, f"{metric}_std": std}
            table.append(values)
    return pd.DataFrame(table)


def level_layout(
    rows: Sequence[Row], values: pd.DataFrame, positive: str, spread: str, runs: str, disagreeing: int, origin: str
) -> Table:
    """A line per table row and level.

    `runs` says what the mean is over (`3 folds × 4 seeds`); `disagreeing`: organ sides whose views are labelled unlike.
    """
    cells, levels = [], values["level"].nunique()
    for _, value in values.iterrows():
        name = value["name"] if value["level"] == LEVELS[0] else ""
        metrics = [plus_minus(value[f"{metric}_mean"], value[f"{metric}_std"]) for metric in SHOWN]
        cells.append((name, value["level"].replace("_", " "), str(value["units"]), str(value["positives"]), *metrics))
    titles = HEADERS | {"balanced_accuracy": "balanced accuracy"}
    notes = (
        f"Percent, mean ± std over {runs}, on the original labels. {SPREADS[spread]}.",
        "The probability of an organ side or patient is the mean over the views, out of fold; it is called "
        f"{positive} above 0.5.",
        "An organ side has the label of its views; where they disagree, the majority's, and a tie counts as "
        f"{positive} (organ sides that disagree: {disagreeing}). A patient is {positive} if any organ side is, so that the mean "
        "over all views dilutes a patient with one such organ side.",
        "Fewer units than views: an organ side or patient weighs the same however many views it has. The shares of "
        f"{positive} units differ between the levels, so compare accuracy and F1 between rows, not between levels.",
        *([] if levels == len(LEVELS) else [NO_ORGAN_SIDES]),
    )
    return Table(
        label="levels",
        title="By view, by organ side and by patient",
        header=("pretraining", "level", "units", positive, *(titles[metric] for metric in SHOWN)),
        rows=tuple(cells),
        text_columns=2,
        notes=notes,
        rules=tuple(range(levels, levels * len(rows), levels)),
        origin=origin,
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "predictions+ index")
    add_outputs(parser, "organ_sides patients csv md tex html")
    add_parameters(parser, "rows experiments classes spread origin")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, average, tabulate, write."""
    import pandas as pd

    classes, origin = arguments.classes, arguments.origin
    rows = read_table_rows(arguments.rows)
    predictions = read_predictions(rows, arguments.experiments, arguments.predictions, classes)
    index = read_csv(arguments.index, "index")
    if "side" not in index:
        raise UserError(
            f"{arguments.index} has no column side, so the views of an organ side cannot be found; crop the views again"
        )

    units = {}
    for name, views in predictions.items():
        organ_sides = organ_side_predictions(views, index, classes)
        patients = patient_predictions(views, organ_sides, classes)
        units[name] = {"view": views, "organ_side": organ_sides, "patient": patients}
    for level, path in (("organ_side", arguments.output_organ_sides), ("patient", arguments.output_patients)):
        tables = [tables[level].assign(origin=origin) for tables in units.values()]
        write_csv(pd.concat(tables, keys=units, names=["experiment"]).reset_index(level="experiment"), path)

    views = next(iter(predictions.values()))
    _, disagreeing = organ_side_truths(index[index["view_id"].isin(views["view_id"])], classes)
    if disagreeing:
        say(f"organ sides whose views are labelled unlike: {disagreeing}; the majority counts, a tie as {classes[1]}")
    shown = {
        name: {level: tables[level] for level in shown_levels(tables["organ_side"])} for name, tables in units.items()
    }
    values = level_numbers(rows, shown, classes[1], arguments.spread)
    runs = f"{views['fold'].nunique()} folds × {views['seed'].nunique()} seeds"
    page = level_layout(rows, values, classes[1], arguments.spread, runs, disagreeing, origin)
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
