"""Score the rows of a table on external patients, whom no stage has learnt from, and draw their AUROC and calibration.

The networks of all folds and seeds of a row are one ensemble, as in the packed classifier but without its temperature. A
patient's probability is the mean over the views. Patients with near-duplicates among the study's views are left out.

    python -m workflow_scripts.tables.make_external_table --table table2 --external b --title "Hospital B" \\
        --rows '[{"name": "UD", "experiment": "ud-flipped"}]' --experiments ud-flipped \\
        --predictions external/b/ud-flipped.csv --index views/external/b.csv --pairs checks/near_duplicates.csv \\
        --study-predictions finetuning/ud-flipped/seed0.csv --real-index views/labelled.csv \\
        --classes homogeneous inhomogeneous --output-csv b.csv --output-md b.md --output-tex b.tex --output-html b.html \\
        --output-figure b.png --output-calibration b_calibration.png
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.figures import BLUE, GREY, INK, RED, save, stamp
from workflow_scripts.core.files import read_csv
from workflow_scripts.core.log import say
from workflow_scripts.core.statistics import drawn_auroc, times_drawn, with_interval
from workflow_scripts.core.tables import Table, number, write_table
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser
from workflow_scripts.study.config.names import LABELLED_SET
from workflow_scripts.tables.aggregation import mean_and_std
from workflow_scripts.tables.draw_calibration import panel, reliability_figure
from workflow_scripts.tables.make_levels import organ_side_predictions, patient_predictions
from workflow_scripts.tables.reading import signed
from workflow_scripts.tables.redraws import drawn_scores
from workflow_scripts.tables.rows import Row, read_predictions, read_table_rows
from workflow_scripts.tables.tables import TITLES, choose_reference

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEADERS = {
    "auroc": "AUROC", "accuracy": "accuracy", "sensitivity": "sensitivity", "specificity": "specificity",
    "ece": "ECE", "brier": "Brier", "excess": "predicted − observed",
}  # fmt: skip
SHOWN_PATIENTS = 10


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "predictions+ index study_predictions* real_index pairs")
    add_outputs(parser, "csv md tex html figure calibration")
    add_parameters(parser, "table external title seen_without_labels rows experiments classes origin")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, leave out, pool, score, write, draw."""
    classes = arguments.classes
    rows = read_table_rows(arguments.rows)
    index = read_csv(arguments.index)
    predictions = read_external(arguments.experiments, arguments.predictions, index, classes)
    seen = arguments.seen_without_labels
    duplicates = duplicated_patients(read_csv(arguments.pairs), f"external/{arguments.external}", seen)
    if duplicates:
        say(f"left out, since their views are near-duplicates of the study's: {', '.join(duplicates)}")
    predictions = {name: table[~table["patient_id"].isin(duplicates)] for name, table in predictions.items()}
    left = next(iter(predictions.values()))
    if not len(left):
        raise UserError(
            f"every patient of {arguments.index} has views that are near-duplicates of the study's ({arguments.pairs}), so "
            "none is left for an external test; name other patients in the config's section external"
        )
    patients = {name: pooled_patients(table, index, classes) for name, table in predictions.items()}
    reference = choose_reference(arguments.table, rows)
    values = external_numbers(rows, predictions, patients, index, classes, reference)
    if arguments.study_predictions:
        study = read_predictions(rows, arguments.experiments, arguments.study_predictions, classes)
        at_home = {name: study_auroc(table, read_csv(arguments.real_index), classes) for name, table in study.items()}
        values["study_auroc"] = values["experiment"].map(at_home)
    else:
        values["study_auroc"] = np.nan
    page = layout(
        arguments.table, arguments.title, rows, values, reference, classes[1], duplicates, seen, arguments.origin
    )
    write_table(
        page, values, csv=arguments.output_csv, md=arguments.output_md, tex=arguments.output_tex,
        html=arguments.output_html,
    )  # fmt: skip
    headline = (
        f"{page.title}: {values['patients'][0]} patients {'seen without their labels' if seen else 'never seen'}, "
        f"{values['positives'][0]} of them {classes[1]}"
    )
    save(forest(values, reference, headline, arguments.origin), arguments.output_figure)
    panels = [
        panel(
            row.name,
            table["probability"].to_numpy(),
            (table["truth"] == classes[1]).to_numpy(),
            table["patient_id"].to_numpy(),
        )
        for row in rows
        for table in [patients[row.experiment]]
    ]
    text = f"Reliability. {headline}.\nBrackets: 95 % over patients. Red: distance from the diagonal."
    save(reliability_figure(panels, classes[1], text, arguments.origin, "patient"), arguments.output_calibration)


def read_external(
    experiments: Sequence[str], paths: Sequence[Path], index: pd.DataFrame, classes: Sequence[str]
) -> dict[str, pd.DataFrame]:
    """The predictions of each experiment's networks (EXTERNAL_COLUMNS), checked.

    Raises `UserError` where the files do not match the experiments, where networks did not all predict the views of
    `index`, where a probability is no number in [0, 1], and where labels are not `classes`.
    """
    if len(experiments) != len(paths):
        raise UserError(f"--predictions names {len(paths)} files for {len(experiments)} experiments; give one for each")
    strange = sorted(set(index["label"]) - set(classes))
    if strange:
        raise UserError(f"an external view has the label {strange[0]!r}; the classes are {' and '.join(classes)}")
    tables = dict(zip(experiments, map(read_csv, paths), strict=True))
    for (name, table), path in zip(tables.items(), paths, strict=True):
        views = table.groupby(["seed", "fold"])["view_id"]
        if not all(sorted(ids) == sorted(index["view_id"]) for _, ids in views):
            raise UserError(f"{path}: {name} did not predict each view of the external index once; predict it again")
        if not table["probability"].between(0, 1).all():
            raise UserError(f"{path}: some probabilities are not numbers between 0 and 1; that training run diverged")
    return tables


def duplicated_patients(pairs: pd.DataFrame, name: str, seen_without_labels: bool) -> list[str]:
    """The patients of the set `name` that have a near-duplicate among the study's own sets; `pairs` by find_near_duplicates.

    With `seen_without_labels` among the study's labelled views only.
    """
    found: set[str] = set()
    for here, there in (("a", "b"), ("b", "a")):
        other = pairs[f"set_{there}"]
        across = (pairs[f"set_{here}"] == name) & ~other.str.startswith("external/")
        if seen_without_labels:
            across &= other == LABELLED_SET
        found |= set(pairs.loc[across, f"patient_{here}"])
    return sorted(found)


def pooled_patients(predictions: pd.DataFrame, index: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """One row per patient as `patient_predictions` returns them, from the ensemble of all networks.

    A view's probability is the sigmoid of the networks' mean logit; a patient's is the mean over the views.
    """
    from workflow_scripts.finetuning.calibration import pool

    networks = predictions.pivot_table(index=["view_id", "patient_id"], columns=["seed", "fold"], values="probability")
    views = networks.index.to_frame(index=False).assign(seed=0, fold=0, probability=pool(networks.to_numpy()))
    return patient_predictions(views, organ_side_predictions(views, index, classes), classes)


def external_numbers(
    rows: Sequence[Row],
    predictions: Mapping[str, pd.DataFrame],
    patients: Mapping[str, pd.DataFrame],
    index: pd.DataFrame,
    classes: Sequence[str],
    reference: str,
) -> pd.DataFrame:
    """Metrics by patient in percent, one row per table row, each with `_low` and `_high` (95 %, patients redrawn).

    `difference`: AUROC less that of the row `reference` under the same redraws. `network_auroc_mean`, `_std`: of the
    single networks, by patient. `patients`, `positives`, `views` and `networks` are counts.
    """
    import pandas as pd

    first = next(iter(patients.values()))
    truth = (first["truth"] == classes[1]).to_numpy()
    times = times_drawn(len(first))
    drawn = {name: drawn_scores(table["probability"].to_numpy(), truth, times) for name, table in patients.items()}
    base = next(row.experiment for row in rows if row.name == reference)
    table = []
    for row in rows:
        networks = [
            pooled_patients(part, index, classes)["probability"].to_numpy()
            for _, part in predictions[row.experiment].groupby(["seed", "fold"])
        ]
        values: dict[str, object] = {
            "name": row.name,
            "experiment": row.experiment,
            "patients": len(first),
            "positives": int(truth.sum()),
            "views": int(first["views"].sum()),
            "networks": len(networks),
        }
        for metric, draws in drawn[row.experiment].items():
            values |= with_interval(metric, 100 * draws)
        difference = 100 * (drawn[row.experiment]["auroc"] - drawn[base]["auroc"])
        values |= with_interval("difference", difference if row.name != reference else np.full(len(times), np.nan))
        single = mean_and_std([100 * drawn_auroc(each, truth, times[:1])[0] for each in networks])
        values |= {"network_auroc_mean": single[0], "network_auroc_std": single[1]}
        table.append(values)
    return pd.DataFrame(table)


def study_auroc(predictions: pd.DataFrame, index: pd.DataFrame, classes: Sequence[str]) -> float:
    """AUROC of out-of-fold predictions by patient, percent: of each seed's patients together, mean over the seeds.

    `predictions` is an experiment's joined table of the study, `index` that of its labelled views.
    """
    patients = patient_predictions(predictions, organ_side_predictions(predictions, index, classes), classes)
    by_seed = [
        drawn_auroc(part["probability"].to_numpy(), (part["truth"] == classes[1]).to_numpy(), np.ones((1, len(part))))[
            0
        ]
        for _, part in patients.groupby("seed")
    ]
    return 100 * float(np.mean(by_seed))


def layout(
    table: str,
    title: str,
    rows: Sequence[Row],
    values: pd.DataFrame,
    reference: str,
    positive: str,
    duplicates: Sequence[str],
    seen_without_labels: bool,
    origin: str,
) -> Table:
    """A line per row of the table: AUROC and its difference to the reference, then the metrics at 0.5 and calibration."""
    cells = []
    for _, value in values.iterrows():
        words = [value["name"], _interval(value, "auroc")]
        words.append("ref." if value["name"] == reference else _interval(value, "difference"))
        words.append(number(value["study_auroc"], 1))
        words += [_interval(value, metric) for metric in list(HEADERS)[1:]]
        cells.append(tuple(words))
    counts = values.iloc[0]
    networks = max(values["networks"])
    met = "that no stage of this study has seen"
    if seen_without_labels:
        met = "whose labels no stage of this study has seen, though pretraining may have seen the views"
    notes = [
        f"{title}: {counts['patients']} patients with {counts['views']} views {met}, "
        f"{counts['positives']} of them {positive}: a patient is {positive} if any organ side is. Percent.",
        f"Each row is the ensemble of its {networks} networks (all folds and seeds): the sigmoid of their mean logit. A "
        f"patient's probability is the mean over the views, and is called {positive} above 0.5.",
        "Brackets: 95 % over patients, drawn with replacement, given the trained networks. Differences of AUROC to the row "
        "marked ref. are of the same draws.",
        "In the study: AUROC of the same row's out-of-fold predictions by patient, mean over seeds. There a patient is "
        "predicted by one network, here by all.",
        "ECE, Brier score and predicted − observed (mean probability less share of positives) are of uncalibrated "
        "probabilities.",
    ]
    if duplicates:
        more = f" and {len(duplicates) - SHOWN_PATIENTS} more" if len(duplicates) > SHOWN_PATIENTS else ""
        notes.append(
            f"Left out, since their views are near-duplicates of the study's (checks/near_duplicates.csv): "
            f"{', '.join(duplicates[:SHOWN_PATIENTS])}{more}."
        )
    baselines = [i for i, row in enumerate(rows) if row.is_baseline]
    return Table(
        label=f"external-{table}",
        title=f"{TITLES[table]}, external test on {title}",
        header=("row", "AUROC", "difference", "in the study", *list(HEADERS.values())[1:]),
        rows=tuple(cells),
        text_columns=1,
        notes=tuple(notes),
        rules=tuple(i for i in baselines[:1] if i > 0),
        origin=origin,
    )


def _interval(value: pd.Series, name: str) -> str:
    return f"{signed(value[name], 1)} ({signed(value[f'{name}_low'], 1)} to {signed(value[f'{name}_high'], 1)})"


def forest(values: pd.DataFrame, reference: str, headline: str, origin: str) -> Figure:
    """AUROC of each row with its interval, the study's own as a hollow mark; beside it sensitivity and specificity."""
    from matplotlib.figure import Figure

    places = np.arange(len(values))[::-1]
    figure = Figure(figsize=(10.5, 1.9 + 0.42 * len(values)), layout="constrained")
    ranking, calling = figure.subplots(1, 2, sharey=True)
    _dots(ranking, values, "auroc", places, BLUE, "these patients")
    ranking.scatter(
        values["study_auroc"],
        places,
        s=42,
        facecolor="white",
        edgecolor=INK,
        zorder=4,
        label="in the study, out of fold",
    )
    ranking.axvline(50, color=GREY, linestyle="--", linewidth=1)
    ranking.set(xlabel="AUROC, %", yticks=places)
    ranking.set_yticklabels(
        [f"{name} (ref.)" if name == reference else name for name in values["name"]], parse_math=False
    )
    _dots(calling, values, "sensitivity", places + 0.12, RED, "sensitivity")
    _dots(calling, values, "specificity", places - 0.12, BLUE, "specificity")
    calling.set(xlabel="at a probability of 0.5, %", xlim=(-3, 103))
    for axis in (ranking, calling):
        axis.set_ylim(-0.6, len(values) - 0.4)
        axis.grid(axis="x", alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=8.5, frameon=False)
    figure.suptitle(headline, fontsize=10.5, x=0.01, ha="left")
    stamp(figure, origin)
    return figure


def _dots(axis: Axes, values: pd.DataFrame, name: str, places: np.ndarray, colour: str, label: str) -> None:
    axis.hlines(places, values[f"{name}_low"], values[f"{name}_high"], color=colour, linewidth=1.8)
    axis.scatter(values[name], places, s=34, color=colour, zorder=3, label=label)


if __name__ == "__main__":
    run(main, parser())
