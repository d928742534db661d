"""What a clinic asks: not the view but the testicle and the patient (paper, Sec. 3: two views of each testicle)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from workflow_scripts.errors import UserError
from workflow_scripts.evaluation.aggregation import SPREADS, aggregate, run_scores
from workflow_scripts.evaluation.predictions import decide
from workflow_scripts.evaluation.rendering import Table, plus_minus
from workflow_scripts.evaluation.tables import HEADERS, Row
from workflow_scripts.evaluation.testicles import numbered_testicles

LEVELS = ("view", "testicle", "patient")
SHOWN = ("accuracy", "f1", "balanced_accuracy", "auroc")
UNIT_COLUMNS = ["patient_id", "fold", "seed", "views", "probability", "truth", "prediction"]


def named_testicles(index: pd.DataFrame) -> pd.DataFrame:
    """Columns view_id and testicle, a name made of patient and side: `P001 left`.

    A frame whose side is unknown is a testicle of its own, numbered within its patient: `P001 frame 2`. `index` is that
    of a view store.
    """
    numbers = numbered_testicles(index)
    sides = index["side"].where(index["side"] != "", None)
    frames = numbers[sides.isna()].groupby(index["patient_id"]).transform(lambda column: pd.factorize(column)[0] + 1)
    names = index["patient_id"] + " " + sides.fillna("frame " + frames.astype(str))
    return pd.DataFrame({"view_id": index["view_id"], "testicle": names})


def testicle_truths(index: pd.DataFrame, classes: Sequence[str]) -> tuple[pd.Series, int]:
    """The label of each testicle, by name, and the number of testicles whose views disagree.

    The majority of its views' labels in `index`; a tie is positive (the second of `classes`).
    """
    testicle = named_testicles(index)["testicle"]
    share = (index["label"] == classes[1]).groupby(testicle).mean()
    truth = pd.Series(np.where(share >= 0.5, classes[1], classes[0]), index=share.index)
    return truth, int(((share > 0) & (share < 1)).sum())


def testicle_predictions(predictions: pd.DataFrame, index: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """One row per testicle and seed: testicle, patient_id, fold, seed, views, probability, truth, prediction.

    `predictions` is an experiment's joined table; the probability is the mean over the views, decided like a view's.
    `UserError` where a view is not in `index`, or where the views of a testicle lie in several folds.
    """
    unknown = ~predictions["view_id"].isin(index["view_id"])
    if unknown.any():
        raise UserError(
            f"the predictions hold the view {predictions['view_id'][unknown].iloc[0]}, which the index lacks; "
            "predictions and index must come from the same crop"
        )
    predicted = index[index["view_id"].isin(predictions["view_id"])]
    views = predictions.merge(named_testicles(index), on="view_id", validate="m:1")
    testicles = _mean_over_views(views, "testicle", classes)
    truth, _ = testicle_truths(predicted, classes)
    return testicles.assign(truth=testicles["testicle"].map(truth))[["testicle", *UNIT_COLUMNS]]


def patient_predictions(predictions: pd.DataFrame, testicles: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """One row per patient and seed, columns as for `testicle_predictions` without the testicle.

    A patient is positive if any testicle of `testicles` (as `testicle_predictions` returns them) is; the probability is
    the mean over all views.
    """
    patients = _mean_over_views(predictions, "patient_id", classes)
    is_positive = (testicles["truth"] == classes[1]).groupby(testicles["patient_id"]).any()
    truth = patients["patient_id"].map(is_positive).map({True: classes[1], False: classes[0]})
    return patients.assign(truth=truth)[UNIT_COLUMNS]


def _mean_over_views(views: pd.DataFrame, unit: str, classes: Sequence[str]) -> pd.DataFrame:
    groups = views.groupby([unit, "seed"])
    if (groups["fold"].min() != groups["fold"].max()).any():
        raise UserError(
            f"the views of one {unit.removesuffix('_id')} lie in several folds, so no fold predicts it as a whole; "
            "testicles and patients need `split_by: patient`"
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

    `units` maps an experiment to its tables by level: `view`, its predictions; `testicle` and `patient`, as the
    functions above return them. Columns: name, experiment, level, units, positives, `<metric>_mean`, `<metric>_std`.
    """
    table = []
    for row in rows:
        for level in LEVELS:
            frame = units[row.experiment][level]
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
    """Three lines per table row: view, testicle, patient.

    `runs` says what the mean is over (`3 folds × 4 seeds`); `disagreeing`: testicles whose views are labelled unlike.
    """
    cells = []
    for _, value in values.iterrows():
        name = value["name"] if value["level"] == LEVELS[0] else ""
        metrics = [plus_minus(value[f"{metric}_mean"], value[f"{metric}_std"]) for metric in SHOWN]
        cells.append((name, value["level"], str(value["units"]), str(value["positives"]), *metrics))
    titles = HEADERS | {"balanced_accuracy": "balanced accuracy"}
    notes = (
        f"Percent, mean ± std over {runs}, on the original labels. {SPREADS[spread]}.",
        "The probability of a testicle or patient is the mean over the views, out of fold; it is called "
        f"{positive} above 0.5.",
        "A testicle has the label of its views; where they disagree, the majority's, and a tie counts as "
        f"{positive} (testicles that disagree: {disagreeing}). A patient is {positive} if any testicle is, so that the mean "
        "over all views dilutes a patient with one such testicle.",
        "Fewer units than views: a testicle or patient weighs the same however many views it has. The shares of "
        f"{positive} units differ between the levels, so compare accuracy and F1 between rows, not between levels.",
    )
    return Table(
        label="levels",
        title="By view, by testicle and by patient",
        header=("pretraining", "level", "units", positive, *(titles[metric] for metric in SHOWN)),
        rows=tuple(cells),
        text_columns=2,
        notes=notes,
        rules=tuple(range(len(LEVELS), len(LEVELS) * len(rows), len(LEVELS))),
        origin=origin,
    )
