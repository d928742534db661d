"""Draw how good each frozen network is with fewer labelled patients.

The area under the ROC curve of the out-of-fold predictions of `probe`, on the original labels of all views, averaged over
seeds and draws. Intervals redraw the patients with all their views, given the networks and the draws of training patients;
the same patients are drawn for every network, so that the difference from the first one has an interval of its own.

    python -m workflow_scripts.tables.draw_label_efficiency --names "ImageNet, frozen" "UD, frozen" --positive inhomogeneous \\
        --efficiency imagenet/efficiency.csv ud/efficiency.csv --output-figure label_efficiency.png --output-csv numbers.csv
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.figures import BLUE, GREY, INK, RED, save, stamp
from workflow_scripts.core.statistics import drawn_auroc, times_drawn, with_interval
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# Distinguishable in print and to readers who confuse red and green, with a marker each; further networks have hollow ones.
STYLES = [(BLUE, "o"), (RED, "s"), ("#2a9d6f", "D"), ("#8a5fb0", "^"), ("#c98a1b", "v"), (INK, "P"), (GREY, "X")]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "efficiency+")
    add_outputs(parser, "figure csv")
    add_parameters(parser, "names positive origin")
    return parser


def areas_of_draws(table: pd.DataFrame, positive: str, times: np.ndarray, views: pd.Index) -> dict[float, np.ndarray]:
    """By share, the mean area over its seeds and draws for each redraw of `times`, float64 (1 + draws,); first all views once.

    `table` has the columns of a probe's efficiency; `times` int (1 + draws, N) in the order of `views`.
    """
    areas: dict[Any, list[np.ndarray]] = {}
    for (share, _draw, _seed), part in table.groupby(["share", "draw", "seed"]):
        part = part.set_index("view_id").loc[views]
        truth = (part["label_original"] == positive).to_numpy()
        areas.setdefault(share, []).append(drawn_auroc(part["probability"].to_numpy(), truth, times))
    return {share: np.mean(found, axis=0) for share, found in areas.items()}


def numbers(tables: Sequence[pd.DataFrame], names: Sequence[str], positive: str) -> pd.DataFrame:
    """One row per network and share: name, share, patients, auroc and difference with `_low` and `_high`.

    `patients` is the number of labelled patients that the folds of a seed train on, on average. The difference is to the
    first network at the same share. `UserError` where two networks predict different views.
    """
    import pandas as pd

    views = tables[0].drop_duplicates("view_id").set_index("view_id")
    for name, table in zip(names, tables, strict=True):
        if set(table["view_id"]) != set(views.index):
            raise UserError(f"{name} predicts other views than {names[0]}; run the probes again on the same views")
    _, patient = np.unique(views["patient_id"], return_inverse=True)
    times = times_drawn(int(patient.max()) + 1)[:, patient]
    rows, first = [], dict[float, np.ndarray]()
    patients, folds = views["patient_id"].nunique(), tables[0]["fold"].nunique()
    for name, table in zip(names, tables, strict=True):
        found = areas_of_draws(table, positive, times, views.index)
        first = first or found
        for share, areas in sorted(found.items()):
            learnt = round(share * patients * (folds - 1) / folds)
            row = {"name": name, "share": share, "patients": learnt, **with_interval("auroc", areas)}
            rows.append({**row, **with_interval("difference", areas - first[share])})
    return pd.DataFrame(rows)


def efficiency_figure(values: pd.DataFrame, origin: str) -> Figure:
    """A line per network over the number of labelled training patients."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axis = figure.subplots()
    names = list(dict.fromkeys(values["name"]))
    for i, name in enumerate(names):
        line, (colour, marker) = values[values["name"] == name], STYLES[i % len(STYLES)]
        more: dict[str, Any] = {"markerfacecolor": "white", "linestyle": "--"} if i >= len(STYLES) else {}
        # Points of one share beside each other, or their intervals would hide one another.
        x = line["patients"] * 1.025 ** (i - (len(names) - 1) / 2)
        axis.vlines(x, line["auroc_low"], line["auroc_high"], color=colour, alpha=0.5, linewidth=1.6)
        axis.plot(x, line["auroc"], color=colour, marker=marker, markersize=5.5, linewidth=1.4, label=name, **more)
    axis.axhline(0.5, color=GREY, linestyle="--", linewidth=1)
    axis.set_xscale("log")
    ticks = sorted(values["patients"].unique())
    shares = values.drop_duplicates("patients").set_index("patients")["share"]
    axis.set_xticks(ticks, [f"{patients}\n{shares[patients]:.0%}" for patients in ticks])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.tick_params(axis="x", which="minor", length=0)
    axis.set_xlabel("labelled patients in training, and their share")
    axis.set_ylabel("AUROC of the views, out of fold")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9, loc="upper left")
    axis.set_title(
        "Frozen networks with a linear classifier; bars: 95 % interval under redrawing the patients",
        fontsize=10, loc="left",
    )  # fmt: skip
    stamp(figure, origin)
    return figure


def main(arguments: argparse.Namespace) -> None:
    """Read, bootstrap, write the numbers and the figure."""
    from workflow_scripts.core.files import read_csv, write_csv

    values = numbers([read_csv(path) for path in arguments.efficiency], arguments.names, arguments.positive)
    write_csv(values.assign(origin=arguments.origin), arguments.output_csv)
    save(efficiency_figure(values, arguments.origin), arguments.output_figure)


if __name__ == "__main__":
    run(main, parser())
