"""Draw a contact sheet of a set of views.

    python -m workflow_scripts.data.draw_views --views views/labelled.npy --index views/labelled.csv --title labelled \\
        --output-figure figures/views_labelled.png
"""

from __future__ import annotations

import argparse

from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "views index")
    add_outputs(parser, "figure")
    add_parameters(parser, "shown title origin")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Draw a random but deterministic choice of views, titled by label where there is one."""
    import numpy as np

    from workflow_scripts.core.figures import panels, save, stamp
    from workflow_scripts.core.store import ViewStore

    views = ViewStore.open(arguments.views, arguments.index)
    count = min(len(views), arguments.shown)
    chosen = np.sort(np.random.default_rng(0).choice(len(views), count, replace=False))
    figure, axes = panels(len(chosen), min(8, len(chosen)), width=1.35, height=1.5)
    for axis, i in zip(axes, chosen, strict=False):
        axis.imshow(views.pixels[i], cmap="gray", vmin=0, vmax=255)
        axis.set_title(views.index["label"][i] or views.index["view"][i], fontsize=6, pad=2)
    figure.suptitle(f"{arguments.title}: {len(chosen)} of {len(views)} views", fontsize=11)
    stamp(figure, arguments.origin)
    save(figure, arguments.output_figure)


if __name__ == "__main__":
    run(main, parser())
