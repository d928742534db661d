"""Tables 1-5: what their rows show, how rows are compared, and what the caption must say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from workflow_scripts.core.files import read_csv
from workflow_scripts.core.statistics import corrected_paired_test, holm, patient_bootstrap
from workflow_scripts.core.tables import Table, number, p_value, plus_minus
from workflow_scripts.study.config.names import GROUPS
from workflow_scripts.study.paper import PAPER
from workflow_scripts.tables.aggregation import SPREADS, aggregate, run_scores
from workflow_scripts.tables.reading import critical_sentence
from workflow_scripts.tables.rows import Row

if TYPE_CHECKING:
    import pandas as pd

TITLES = {
    "table1": "Noisy labels: fine-tuning on the complete, filtered and flipped labels",
    "table1_protocols": "Noisy labels: who changed the labels, and which labels the test believes",
    "table2": "Pretraining strategies",
    "table3": "Pretraining on mixes of real and synthetic views",
    "table4": "Loss ablation",
    "table5": "Fine-tuning on synthetic views, tested on real ones",
}
# The row of the paper (by key) that the others of a table are tested against: the paper's starting point in table 1, its
# best elsewhere.
REFERENCES = {
    "table1": "complete",
    "table1_protocols": "complete",
    "table2": "ud",
    "table3": "testicle_thyroid",
    "table4": "lambda_0_2",
}
SHORT = ("accuracy", "f1")
LONG = ("accuracy", "f1", "precision", "recall")
SHOWN = {
    "table1": SHORT,
    "table1_protocols": (*SHORT, "auroc"),
    "table2": LONG,
    "table3": LONG,
    "table4": SHORT,
    "table5": (*SHORT, "auroc"),
}
# Tables whose rows change the labels: scored on the policy's labels and on the original ones.
SCORED_TWICE = ("table1", "table1_protocols")
NAMED_BY_SWITCHES = ("table1_protocols", "table3", "table4", "table5")
HEADERS = {
    "accuracy": "accuracy",
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "auroc": "AUROC",
    "fid": "FID",
}
HOLDOUTS = {
    "none": "Pretraining on labelled views, generator and manifold filter saw the pixels, not the labels, of the test "
    "patients (the paper's protocol)",
    "per_fold": "Neither pretraining nor generator nor manifold filter saw the test patients of a fold",
}


# What table 5 adds to `HOLDOUTS`.
SYNTHETIC_TRAINING = {
    "none": "The generator of the synthetic views also learnt the original labels of the test patients, so these views may carry "
    "them, and the rows with synthetic views flatter what new patients can expect (`holdout: per_fold` keeps them out)",
    "per_fold": "The synthetic views that a fold learns come from a generator of its own",
}


def choose_reference(table: str, rows: Sequence[Row]) -> str:
    """Name of the row that the others are tested against: the one that repeats the paper's, else the last network.

    Of table 5, which the paper has not, the first network.
    """
    networks = [row for row in rows if not row.is_baseline]
    if table == "table5":
        return (networks or rows)[0].name
    repeated = [row for row in rows if row.paper == REFERENCES[table]]
    return (repeated or networks[-1:] or rows[-1:])[0].name


def table_number(table: str) -> str:
    """The table's number in the paper."""
    return {"table1_protocols": "1, protocols"}.get(table, table.removeprefix("table"))


def numbers(
    rows: Sequence[Row], predictions: Mapping[str, pd.DataFrame], positive: str, spread: str, reference: str,
    pretraining_seeds: int = 1,
) -> pd.DataFrame:  # fmt: skip
    """Every number of a table, one row per table row; shares in percent.

    `<metric>_mean`, `<metric>_std`: on the views that the label policy keeps, with its labels (the paper's way).
    `<metric>_original_…`: the same predictions on the original labels of all views. `accuracy_ci_low`, `_high`: 95 %
    patient bootstrap. `difference_…`, `p_value`, `p_corrected` (Holm): corrected paired test of accuracy against the
    row `reference`, on the policy's labels where all rows share them, else on the original ones; with the variance
    between backbones where pretraining was repeated with `pretraining_seeds`. `views`, `positives` and `relabelled`
    count what is scored and how many labels the policy changed.
    """
    import pandas as pd

    same_labels = share_labels(rows, predictions)
    scored = {
        row.experiment: {
            labels: run_scores(predictions[row.experiment], positive, labels) for labels in ("policy", "original")
        }
        for row in rows
    }
    compared = "policy" if same_labels else "original"
    base = next(row for row in rows if row.name == reference)
    table = []
    for row in rows:
        runs, views = scored[row.experiment], predictions[row.experiment]
        first_seed = views[views["seed"] == views["seed"].min()]
        kept = first_seed[first_seed["kept"] == 1]
        values: dict[str, object] = {"name": row.name, "experiment": row.experiment, **row.switches}
        values |= {
            "samples": row.samples,
            "label_policy": row.label_policy,
            "views": len(kept),
            "positives": int((kept["label_policy"] == positive).sum()),
            "relabelled": int((kept["label_policy"] != kept["label_original"]).sum()),
        }
        for suffix, labels in (("", "policy"), ("_original", "original")):
            for metric, (mean, std) in aggregate(100 * runs[labels], spread).items():
                values |= {f"{metric}{suffix}_mean": mean, f"{metric}{suffix}_std": std}
        low, high = patient_bootstrap(*patient_counts(views))
        values |= {"accuracy_ci_low": 100 * low, "accuracy_ci_high": 100 * high}
        if row.name != reference:
            difference = 100 * (runs[compared]["accuracy"] - scored[base.experiment][compared]["accuracy"])
            starts = backbones((row, base), difference.index.get_level_values("seed").to_numpy(), pretraining_seeds)
            test = corrected_paired_test(difference.to_numpy(), views["fold"].nunique(), starts)
            values |= {
                "difference_mean": test.difference,
                "difference_low": test.low,
                "difference_high": test.high,
                "p_value": test.p,
            }
        table.append(values)
    result = pd.DataFrame(table)
    for column in ("difference_mean", "difference_low", "difference_high", "p_value"):
        result[column] = result[column].astype(float) if column in result else np.nan
    return result.assign(p_corrected=holm(result["p_value"].to_numpy()))


def backbones(rows: Sequence[Row], seeds: np.ndarray, pretraining_seeds: int) -> np.ndarray | None:
    """Which of the pretrainings the runs with `seeds` (n,) started from, int (n,); None where no row of `rows` has several.

    A fine-tuning seed s starts from pretraining number s modulo `pretraining_seeds`.
    """
    if pretraining_seeds == 1 or not any(row.is_pretrained for row in rows):
        return None
    return seeds % pretraining_seeds


def share_labels(rows: Sequence[Row], predictions: Mapping[str, pd.DataFrame]) -> bool:
    """Whether all rows are scored on the same labels of the same views."""
    columns = ["seed", "view_id", "label_policy", "kept"]
    first, *others = (
        predictions[name][columns].sort_values(["seed", "view_id"], ignore_index=True)
        for name in dict.fromkeys(row.experiment for row in rows)
    )
    return all(first.equals(other) for other in others)


def patient_counts(predictions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Correct and all kept views by patient and seed, two (P, S) arrays, on the policy's labels."""
    import pandas as pd

    kept = predictions[predictions["kept"] == 1]
    correct = (kept["prediction"] == kept["label_policy"]).astype(np.int64)
    views = pd.crosstab(kept["patient_id"], kept["seed"])
    hits = pd.crosstab(kept["patient_id"], kept["seed"], values=correct, aggfunc="sum").fillna(0)
    return hits.to_numpy(np.int64), views.to_numpy(np.int64)


def paper_numbers(table: str) -> pd.DataFrame:
    """What the paper prints for a table (percent), by the key of the row; rows and metrics without numbers are left out."""
    rows = read_csv(PAPER)
    rows = rows[rows["table"] == table].set_index("key").drop(columns=["table", "row"])
    return rows.dropna(how="all").dropna(axis=1, how="all")


def with_paper_numbers(table: str, values: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """`values` with the paper's numbers as further columns `paper_<metric>_mean`, `…_std`; NaN where it has none.

    `keys`: the row of the paper's table that each row of `values` repeats, empty if none.
    """
    paper = paper_numbers(table).add_prefix("paper_").reindex(list(keys))
    return values.join(paper.set_index(values.index))


def notes(
    table: str,
    rows: Sequence[Row],
    predictions: Mapping[str, pd.DataFrame],
    values: pd.DataFrame,
    positive: str,
    spread: str,
    holdout: str,
    reference: str,
    pretraining_seeds: int = 1,
    split_by: str = "patient",
) -> list[str]:
    """The sentences of a caption; `values` as `numbers` returns them, `split_by` what shares a fold."""
    views = next(iter(predictions.values()))
    seeds, folds = views["seed"].nunique(), views["fold"].nunique()
    first = views[views["seed"] == views["seed"].min()]
    positives = int((first["label_original"] == positive).sum())
    policies = list(dict.fromkeys(row.label_policy for row in rows))
    same_labels = share_labels(rows, predictions)
    together = first.groupby("patient_id")["fold"].nunique().max() == 1
    result = [
        f"Percent, mean ± std over {folds} folds × {seeds} seeds of {first['patient_id'].nunique()} patients with "
        f"{len(first)} views ({positives} {positive} in the original labels; {positive} is the positive class). "
        + (
            "No patient is split between folds"
            if together
            else "PATIENTS ARE SPLIT between folds, so tested ones are learnt"
        )
        + "; every view is predicted once per seed.",
        f"{SPREADS[spread]}.",
        f"Label policy: {', '.join(policies)}. A row is scored with its policy's labels on the views that it keeps. "
        f"A view is called {positive} where its probability exceeds 0.5.",
        f"{HOLDOUTS[holdout]}.",
    ]
    if table == "table5":
        result.append(
            f"{SYNTHETIC_TRAINING[holdout]}. Every row is tested on real views alone. real: percentage of the training patients; "
            "synthetic: views (Xg: all generated ones, Xgf: the filtered ones) in percent of the real training views of their "
            "class; asked: their label is the class that they were asked for, relabelled: what the same start says after "
            "fine-tuning on the fold's real training views, shuffled: a control without information."
        )
    if split_by in GROUPS:
        result.append(
            f"Each fold is one {split_by}, left out in turn, and every seed has the same folds: ± and p hold the differences "
            f"between the {split_by}s, but no other division of the patients."
        )
    if table in SCORED_TWICE:
        result.append(
            "The columns “original” score the same predictions on the original labels of all views. Most of a gain "
            "over the complete labels is bookkeeping: the policy also changes what the test counts as true."
        )
    result.append(
        "95 % CI of accuracy: bootstrap over patients, given the trained networks. p: accuracy against the row "
        f"marked ref. ({reference}), Nadeau-Bengio corrected paired t test over folds × seeds"
        + ("" if same_labels else " on the original labels of all views")
        + ", Holm-corrected for the rows of the table."
    )
    labels = "policy" if same_labels else "original"
    if pretraining_seeds > 1:
        result.append(
            f"Each pretraining was done with {pretraining_seeds} seeds, fine-tuning seed s starting from number s mod "
            f"{pretraining_seeds}; the test includes the variance between them."
        )
    result.append(critical_sentence(table, rows, values, reference, labels, seeds, holdout, pretraining_seeds))
    if any(row.is_baseline for row in rows):
        result.append(
            "Below the line, baselines without a network: the commonest class; texture statistics, linear classifier."
        )
    return result


def layout(
    table: str, rows: Sequence[Row], values: pd.DataFrame, reference: str, caption: Sequence[str], origin: str
) -> Table:
    """The table as the paper lays it out, with interval, p value and, if `values` has them, the paper's numbers.

    Rows of the tables in `NAMED_BY_SWITCHES` differ by their switches; where these do not suffice, a column of names leads.
    """
    switches = list(rows[0].switches)
    header: list[str] = {"table1": ["LD variant"], "table2": ["pretraining", "samples"]}.get(table, switches)
    cells = [_words(table, row) for row in rows]
    networks = [words for row, words in zip(rows, cells, strict=True) if not row.is_baseline]
    if table in NAMED_BY_SWITCHES and (not switches or len({tuple(words) for words in networks}) < len(networks)):
        header = ["pretraining", *header]
        cells = [[row.name, *row.switches.values()] for row in rows]
    text_columns = len(header)

    columns = [(HEADERS[metric], metric) for metric in SHOWN[table]]
    if table in SCORED_TWICE:
        columns += [(f"{HEADERS[metric]}, original", f"{metric}_original") for metric in SHOWN[table]]
    paper = [(f"{HEADERS[m]} (paper)", f"paper_{m}") for m in SHOWN[table] if f"paper_{m}_mean" in values]
    header = [*header, *(title for title, _ in columns), "accuracy, 95 % CI", "p", *(title for title, _ in paper)]
    for words, (_, value) in zip(cells, values.iterrows(), strict=True):
        words += [plus_minus(value[f"{key}_mean"], value[f"{key}_std"]) for _, key in columns]
        words.append(f"{number(value['accuracy_ci_low'], 1)} to {number(value['accuracy_ci_high'], 1)}")
        words.append("ref." if value["name"] == reference else p_value(value["p_corrected"]))
        words += [plus_minus(value[f"{key}_mean"], value[f"{key}_std"]) for _, key in paper]
    baselines = [i for i, row in enumerate(rows) if row.is_baseline]
    return Table(
        label=table,
        title=TITLES[table],
        number=table_number(table),
        header=tuple(header),
        rows=tuple(tuple(words) for words in cells),
        text_columns=text_columns,
        notes=tuple(caption),
        rules=tuple(i for i in baselines[:1] if i > 0),
        origin=origin,
    )


def _words(table: str, row: Row) -> list[str]:
    """The descriptive cells of a row; a baseline has no switches, so its name takes their place."""
    if table == "table1":
        return [row.name]
    if table == "table2":
        return [row.name, row.samples]
    if row.is_baseline:
        return [row.name, *["–"] * (len(row.switches) - 1)]
    return list(row.switches.values())
