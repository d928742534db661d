"""Draw the loss curves of the pretraining runs and of the diffusion model.

    python -m workflow_scripts.pretraining.draw_training --names ud diffusion \\
        --metrics pretraining/ud/metrics.jsonl diffusion/metrics.jsonl --output-figure figures/training.png
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.figures import save, stamp
from workflow_scripts.core.files import read_json_lines
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What the metrics of a training run may hold: title of the panel, and whether its axis is logarithmic.
CURVES = {
    "loss_con": ("contrastive loss $L_{con}$ (NT-Xent)", False),
    "loss_sup": ("organ loss $L_{sup}$ (cross-entropy)", False),
    "alignment": ("alignment of pairs (0 good)", False),
    "uniformity": ("uniformity (0 collapsed)", False),
    "knn_organ": ("organ by nearest neighbours (balanced accuracy)", False),
    "knn_label": ("label by nearest neighbours, a monitor only", False),
    "embedding_std": ("spread of the embeddings (1 even, 0 collapsed)", False),
    "mse": ("diffusion: squared error of the noise", True),
    "vb": ("diffusion: variational bound term", True),
}
# Curves with more points than this are smoothed for the eye; the raw points stay behind them.
_SMOOTH_ABOVE = 60


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "metrics*")
    add_outputs(parser, "figure")
    add_parameters(parser, "names origin")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, draw."""
    if len(arguments.names) != len(arguments.metrics) or not arguments.names:
        raise UserError(
            f"--names names {len(arguments.names)} training runs, --metrics {len(arguments.metrics)}; one of each is needed"
        )
    runs = {name: read_metrics(path) for name, path in zip(arguments.names, arguments.metrics, strict=True)}
    for name, rows in runs.items():
        if not any(row.get(key) is not None for row in rows for key in CURVES):
            raise UserError(f"the metrics of {name} hold none of {', '.join(CURVES)}")
    save(training_figure(runs, arguments.origin), arguments.output_figure)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl: a step and the measured metrics, numbers or none."""
    rows = read_json_lines(path)
    for line, row in enumerate(rows, start=1):
        for key in ("step", *(key for key in CURVES if key in row)):
            if not isinstance(row[key], int | float | None):
                raise UserError(f"{path}, line {line}, {key}: {row[key]!r} is not a number; make it again")
    return rows


def training_figure(runs: Mapping[str, Sequence[Mapping[str, float | None]]], origin: str) -> Figure:
    """The curves of `CURVES` that the runs' metrics hold, a panel each; `runs` maps names to metrics' rows."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    curves = {key: {name: curve for name, rows in runs.items() if len(curve := _curve(rows, key))} for key in CURVES}
    curves = {key: found for key, found in curves.items() if found}
    columns = min(3, len(curves))
    lines = -(-len(curves) // columns)
    figure = Figure(figsize=(5.4 * columns, 3.9 * lines + 0.7), layout="constrained")
    palette = colormaps["tab10" if len(runs) <= 10 else "tab20"]
    colours = {name: palette(i % palette.N) for i, name in enumerate(runs)}
    grid = figure.subplots(lines, columns, squeeze=False)
    for axis in grid.flat[len(curves) :]:
        axis.axis("off")
    handles = {}
    for axis, (key, found) in zip(grid.flat, curves.items(), strict=False):
        title, logarithmic = CURVES[key]
        for name, curve in found.items():
            step, value = curve.T
            if len(value) > _SMOOTH_ABOVE:
                axis.plot(step, value, color=colours[name], alpha=0.18, linewidth=0.8)
                window = max(3, len(value) // 40)
                step, value = (np.convolve(x, np.ones(window) / window, mode="valid") for x in (step, value))
            (handles[name],) = axis.plot(step, value, color=colours[name], linewidth=1.6, label=name)
        if logarithmic and all((curve[:, 1] > 0).all() for curve in found.values()):
            axis.set_yscale("log")
        axis.set_title(title, loc="left", fontsize=11)
        axis.set_xlabel("step")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=min(6, len(handles)), frameon=False
    )
    stamp(figure, origin)
    return figure


def _curve(rows: Sequence[Mapping[str, float | None]], key: str) -> np.ndarray:
    """(points, 2): step and value of one metric, where it was measured."""
    points = [(float(row["step"] or 0), float(row[key] or 0)) for row in rows if row.get(key) is not None]
    return np.array(points).reshape(-1, 2)


if __name__ == "__main__":
    run(main, parser())
