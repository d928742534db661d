"""Choose thresholds for a wanted sensitivity or specificity, and report what they reach; draw the curves behind them.

By view, by organ side and by patient, on original labels. The threshold of a fold is chosen on the out-of-fold predictions of
the other folds of its seed, and then applied to the fold.

    python -m workflow_scripts.tables.make_operating_points --table table2 \\
        --rows '[{"name": "UD", "experiment": "ud-flipped"}]' --experiments ud-flipped \\
        --predictions finetuning/ud-flipped/seed0.csv --index views/labelled.csv \\
        --sensitivities 0.9 --specificities 0.9 --classes homogeneous inhomogeneous --output-csv points.csv \\
        --output-md points.md --output-tex points.tex --output-html points.html --output-figure points.png
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.figures import BLUE, GREY, INK, RED, save, stamp
from workflow_scripts.core.files import read_csv
from workflow_scripts.core.statistics import times_drawn, with_interval
from workflow_scripts.core.tables import Table, number, write_table
from workflow_scripts.finetuning.calibration import reliability
from workflow_scripts.finetuning.predictions import DECISION
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser
from workflow_scripts.tables.make_levels import LEVELS, organ_side_predictions, patient_predictions
from workflow_scripts.tables.rows import read_predictions, read_table_rows
from workflow_scripts.tables.tables import choose_reference

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GRID = np.linspace(0, 1, 101)
# Thresholds of the decision curve: beyond, a clinic would hardly wait for a probability so high.
HIGHEST_THRESHOLD = 0.6
BAND_DRAWS = 500


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "predictions+ index")
    add_outputs(parser, "csv md tex html figure")
    add_parameters(parser, "table rows experiments sensitivities specificities prevalence classes origin")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, aggregate, choose, report, draw."""
    import pandas as pd

    classes = arguments.classes
    for name in ("sensitivities", "specificities", "prevalence"):
        given = getattr(arguments, name)
        wrong = [
            value
            for value in (given if isinstance(given, list) else [given])
            if value is not None and not 0 < value <= 1
        ]
        if wrong:
            raise UserError(f"--{name} {wrong[0]} is not above 0 and at most 1")
    rules = [("", DECISION), *(("sensitivity", value) for value in arguments.sensitivities)]
    rules += [("specificity", value) for value in arguments.specificities]
    rows = read_table_rows(arguments.rows)
    predictions = read_predictions(rows, arguments.experiments, arguments.predictions, classes)
    index = read_csv(arguments.index)
    units = {name: by_level(table, index, classes) for name, table in predictions.items()}
    table = [
        {"name": row.name, "experiment": row.experiment, "level": level, **point}
        for row in rows
        for level in LEVELS
        for point in operating_points(units[row.experiment][level], rules, arguments.prevalence)
    ]
    values = pd.DataFrame(table)
    write_table(
        layout(values, classes[1], arguments.prevalence, arguments.origin), values, csv=arguments.output_csv,
        md=arguments.output_md, tex=arguments.output_tex, html=arguments.output_html,
    )  # fmt: skip
    shown = next(row for row in rows if row.name == choose_reference(arguments.table, rows))
    save(curves(units[shown.experiment], shown.name, classes[1], arguments.origin), arguments.output_figure)


def by_level(predictions: pd.DataFrame, index: pd.DataFrame, classes: Sequence[str]) -> dict[str, pd.DataFrame]:
    """The units of each level with the columns patient_id, fold, seed, probability and `positive`, bool."""
    organ_sides = organ_side_predictions(predictions, index, classes)
    patients = patient_predictions(predictions, organ_sides, classes)
    tables = dict(
        zip(LEVELS, (predictions.rename(columns={"label_original": "truth"}), organ_sides, patients), strict=True)
    )
    columns = ["patient_id", "fold", "seed", "probability"]
    return {level: table[columns].assign(positive=table["truth"] == classes[1]) for level, table in tables.items()}


def choose_threshold(probability: np.ndarray, truth: np.ndarray, wanted: str, value: float) -> float:
    """The threshold at or above which a unit is called positive, so that `wanted` is at least `value` on these units.

    For a sensitivity the highest such threshold, for a specificity the lowest. `probability` in [0, 1] and `truth` bool are
    (N,). Without units of the class that counts, `DECISION`.
    """
    scores = np.sort(probability[truth] if wanted == "sensitivity" else probability[~truth])
    if not len(scores):
        return DECISION
    # Rounded, since 0.1 * 10 must be 1, not a little more.
    allowed = math.floor(round((1 - value) * len(scores), 9))
    if wanted == "sensitivity":
        return float(scores[min(allowed, len(scores) - 1)])
    return float(np.nextafter(scores[max(len(scores) - allowed - 1, 0)], 2))


def operating_points(
    units: pd.DataFrame, rules: Sequence[tuple[str, float]], prevalence: float | None
) -> list[dict[str, object]]:
    """What each rule reaches on the test folds in percent, mean over the seeds, with intervals over patients.

    A rule is (`sensitivity` or `specificity`, the value wanted), or ("", a fixed threshold above which units are positive).
    `threshold` is the mean over seeds and folds; PPV and NPV are those at `prevalence`, or at the share of positive units.
    """
    patients, place = np.unique(units["patient_id"].to_numpy().astype(str), return_inverse=True)
    times = times_drawn(len(patients)).astype(np.float64)
    truth = units["positive"].to_numpy()
    first = units[units["seed"] == units["seed"].min()]
    share = prevalence or float(first["positive"].mean())
    points = []
    for wanted, value in rules:
        called, chosen = np.zeros(len(units), bool), []
        for _, part in units.reset_index(drop=True).groupby("seed"):
            for fold in part["fold"].unique():
                test, rest = part[part["fold"] == fold], part[part["fold"] != fold]
                threshold = float(np.nextafter(value, 2))
                if wanted:
                    threshold = choose_threshold(
                        rest["probability"].to_numpy(), rest["positive"].to_numpy(), wanted, value
                    )
                called[test.index] = test["probability"] >= threshold
                chosen.append(threshold)
        reached = {}
        for name, counts in (("sensitivity", truth), ("specificity", ~truth)):
            by_seed = []
            for seed in units["seed"].unique():
                mine = (units["seed"] == seed).to_numpy() & counts
                hit = called[mine] if name == "sensitivity" else ~called[mine]
                weights = times[:, place[mine]]
                with np.errstate(invalid="ignore"):
                    by_seed.append(weights @ hit / weights.sum(axis=1))
            reached[name] = np.mean(by_seed, axis=0)
        reached |= predictive_values(reached["sensitivity"], reached["specificity"], share)
        point: dict[str, object] = {
            "wanted": wanted, "value": value, "threshold": float(np.mean(chosen)), "units": len(first),
            "positives": int(first["positive"].sum()), "prevalence": share,
        }  # fmt: skip
        for name, draws in reached.items():
            point |= with_interval(name, 100 * draws)
        points.append(point)
    return points


def predictive_values(sensitivity: np.ndarray, specificity: np.ndarray, prevalence: float) -> dict[str, np.ndarray]:
    """PPV and NPV at a share of positives, by Bayes' rule; NaN where no unit would be called so. All are in [0, 1]."""
    right, wrong = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    cleared, missed = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    with np.errstate(invalid="ignore", divide="ignore"):
        return {"ppv": right / (right + wrong), "npv": cleared / (cleared + missed)}


def layout(values: pd.DataFrame, positive: str, prevalence: float | None, origin: str) -> Table:
    """A line per row, level and rule."""
    cells, rules = [], []
    before: tuple[str, str] = ("", "")
    for i, value in enumerate(values.to_dict("records")):
        now = (value["name"], value["level"])
        rules += [i] if i and now[0] != before[0] else []
        rule = f"{value['wanted']} ≥ {100 * value['value']:g} %" if value["wanted"] else f"threshold {value['value']:g}"
        words = [now[0] if now[0] != before[0] else "", now[1].replace("_", " ") if now != before else "", rule]
        words.append(number(value["threshold"]))
        words += [
            f"{number(value[name], 1)} ({number(value[f'{name}_low'], 1)} to {number(value[f'{name}_high'], 1)})"
            if value[name] == value[name]
            else "–"
            for name in ("sensitivity", "specificity", "ppv", "npv")
        ]
        cells.append(tuple(words))
        before = now
    shares = {level: part["prevalence"].iloc[0] for level, part in values.groupby("level", sort=False)}
    at = (
        f"a prevalence of {100 * prevalence:g} %"
        if prevalence
        else "the study's own: "
        + ", ".join(f"{str(level).replace('_', ' ')} {100 * share:.1f} %" for level, share in shares.items())
    )
    notes = (
        f"Percent, out of fold on original labels, mean over the seeds; a unit is called {positive} from the threshold upwards.",
        "A fold's threshold is chosen on the out-of-fold predictions of the other folds of its seed; what is reported is what "
        "it reaches on the fold itself; the column threshold is the mean over folds and seeds. 0.5 is the paper's threshold.",
        f"PPV and NPV hold for {at}. Another clinic has another prevalence: set tables.operating_points.prevalence.",
        "Brackets: 95 % over patients, drawn with replacement, given the trained networks and the thresholds.",
    )
    return Table(
        label="operating-points",
        title="Operating points by view, by organ side and by patient",
        header=("row", "level", "rule", "threshold", "sensitivity", "specificity", "PPV", "NPV"),
        rows=tuple(cells),
        text_columns=3,
        notes=notes,
        rules=tuple(rules),
        origin=origin,
    )


def drawn_curves(units: pd.DataFrame, draws: int = BAND_DRAWS) -> dict[str, np.ndarray]:
    """`roc`: sensitivity by 1 - specificity; `precision` by sensitivity; both on `GRID`; `benefit`: net benefit by threshold, on
    `GRID` times `HIGHEST_THRESHOLD`; `all`: the same of calling everyone positive. Each (1 + draws, 101): the curve, then that
    of redrawn patients; mean over the seeds.
    """
    patients, place = np.unique(units["patient_id"].to_numpy().astype(str), return_inverse=True)
    times = times_drawn(len(patients), draws).astype(np.float64)
    found: dict[str, list[np.ndarray]] = {"roc": [], "precision": [], "benefit": [], "all": []}
    for seed in units["seed"].unique():
        mine = (units["seed"] == seed).to_numpy()
        probability, truth = units["probability"].to_numpy()[mine], units["positive"].to_numpy()[mine]
        weights = times[:, place[mine]]
        order = np.argsort(-probability, kind="stable")
        # Units of the same probability are called together: only the last of them is a point of the curve.
        last = np.append(np.diff(probability[order]) != 0, True)
        share = (weights * truth).sum(axis=1) / weights.sum(axis=1)
        roc, precision = [], []
        for weight, positives in zip(weights[:, order], share, strict=True):
            hit, false = (np.append(0, np.cumsum(weight * side)[last]) for side in (truth[order], ~truth[order]))
            with np.errstate(invalid="ignore", divide="ignore"):
                hit, false = hit / hit[-1], false / false[-1]
                roc.append(np.interp(GRID, false, hit))
                # The fewest false alarms at which a sensitivity is reached.
                reached, where = np.unique(hit, return_index=True)
                alarm = np.interp(GRID, reached, false[where]) * (1 - positives)
                precision.append(GRID * positives / (GRID * positives + alarm))
        thresholds = GRID * HIGHEST_THRESHOLD
        odds = thresholds / (1 - thresholds)
        called = probability[:, None] > thresholds
        total = weights.sum(axis=1, keepdims=True)
        gain, loss = (weights @ (called & side[:, None]) / total for side in (truth, ~truth))
        found["roc"].append(np.array(roc))
        found["precision"].append(np.array(precision))
        found["benefit"].append(gain - odds * loss)
        found["all"].append(share[:, None] - odds * (1 - share[:, None]))
    return {name: np.mean(each, axis=0) for name, each in found.items()}


def curves(units: Mapping[str, pd.DataFrame], name: str, positive: str, origin: str) -> Figure:
    """For each level, the ROC, precision-recall and decision curves with 95 % bands over patients, and reliability."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 3.4 * len(units) + 0.6), layout="constrained")
    grid = figure.subplots(len(units), 4, squeeze=False)
    for line, (level, table) in zip(grid, units.items(), strict=True):
        drawn = drawn_curves(table)
        roc, precision, benefit, diagram = line
        _band(roc, GRID, drawn["roc"], BLUE)
        roc.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
        roc.set(xlabel="1 − specificity", ylabel=f"by {level.replace('_', ' ')}\n\nsensitivity", title="ROC")
        _band(precision, GRID, drawn["precision"], BLUE)
        precision.axhline(table["positive"].mean(), color=GREY, linestyle="--", linewidth=1)
        precision.set(xlabel="sensitivity (recall)", ylabel="precision (PPV)", title="precision-recall", ylim=(0, 1.03))
        thresholds = GRID * HIGHEST_THRESHOLD
        _band(benefit, thresholds, drawn["benefit"], BLUE, "decision curve: this row")
        benefit.plot(thresholds, drawn["all"][0], color=RED, linewidth=1, label=f"call everyone {positive}")
        benefit.axhline(0, color=GREY, linestyle="--", linewidth=1, label="call no one")
        highest = np.nanmax(np.concatenate([drawn["benefit"][0], drawn["all"][0]]))
        benefit.set(
            xlabel="threshold probability",
            ylabel="net benefit",
            title="decision curve",
            ylim=(-0.35 * highest, 1.25 * highest),
        )
        points = reliability(table["probability"].to_numpy(), table["positive"].to_numpy())
        diagram.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
        diagram.plot(points.predicted, points.observed, color=BLUE, linewidth=1, alpha=0.5)
        diagram.scatter(
            points.predicted, points.observed, s=18 + 220 * points.count / points.count.sum(), color=BLUE, zorder=3
        )
        diagram.set(
            xlabel="mean probability",
            ylabel=f"share of {positive}",
            title="reliability",
            xlim=(-0.03, 1.03),
            ylim=(-0.03, 1.03),
        )
        for axis in line:
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *grid[0, 2].get_legend_handles_labels(), loc="outside lower right", ncols=3, fontsize=9, frameon=False
    )
    figure.suptitle(
        f"{name}: out of fold, mean over the seeds. Bands: 95 % over patients, given the trained networks.", fontsize=11, x=0.01,
        ha="left", color=INK, parse_math=False,
    )  # fmt: skip
    stamp(figure, origin)
    return figure


def _band(axis: Axes, x: np.ndarray, drawn: np.ndarray, colour: str, label: str | None = None) -> None:
    # At a sensitivity of 0 nothing is called positive, and there is no precision.
    exists = ~np.isnan(drawn[1:]).all(axis=0)
    x, drawn = x[exists], drawn[:, exists]
    low, high = np.nanquantile(drawn[1:], [0.025, 0.975], axis=0)
    axis.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    axis.plot(x, drawn[0], color=colour, linewidth=1.6, label=label)


if __name__ == "__main__":
    run(main, parser())
