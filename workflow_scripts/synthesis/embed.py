"""Embed view stores: features of every view, the space of the manifold filter, the metrics and the privacy audit.

One process embeds several stores with one network, because starting torch costs more than embedding a small set. Finished
blocks of views survive an interruption.

    python -m workflow_scripts.synthesis.embed --network inception --weights weights/weights-inception-2015-12-05-6726825d.pth \\
        --views results/views/labelled.npy results/views/synthetic.npy \\
        --output-features results/embedding/labelled.npy results/embedding/synthetic.npy --work-dir work/embed
"""

from __future__ import annotations

import argparse

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import write_npy_blocks
from workflow_scripts.core.store import open_pixels
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import add_run, run, stage_parser

BATCHES = 16  # in a block, which is what is saved at a time


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "views+ weights")
    add_outputs(parser, "features+")
    add_parameters(parser, "network backbone normalisation resize batch_size")
    add_run(parser)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Embed each store, block by block."""
    if len(arguments.views) != len(arguments.output_features):
        raise UserError(
            f"{len(arguments.views)} stores (--views) but {len(arguments.output_features)} outputs (--output-features)"
        )
    if arguments.batch_size < 1:
        raise UserError(f"--batch-size {arguments.batch_size} must be at least 1")
    import numpy as np

    from workflow_scripts.runtime.run import CHECKPOINT, Run
    from workflow_scripts.synthesis.features import embed, exact_float32, load_network

    run = Run(arguments)
    exact_float32()
    stores = [open_pixels(source) for source in arguments.views]
    network = load_network(
        arguments.network, arguments.backbone, arguments.weights, run.device, arguments.resize, arguments.normalisation,
        stores[0].shape[1],
    )  # fmt: skip
    run.start(run.identity(device=run.device.type))

    size = BATCHES * arguments.batch_size
    blocks = [
        (views, start, f"{number}_{start}.npy")
        for number, views in enumerate(stores)
        for start in range(0, len(views), size)
    ]
    checkpoint = run.work.load(CHECKPOINT)
    for number in run.steps(
        len(blocks), dict, start=checkpoint["step"] if checkpoint else 0, every=1, label="embed", unit="block"
    ):
        views, start, file = blocks[number]
        run.work.write_block(
            file, np.concatenate(list(embed(views[: start + size], network, arguments.batch_size, start)))
        )

    for store, output in zip(stores, arguments.output_features, strict=True):
        write_npy_blocks((run.work.read_block(file) for views, _, file in blocks if views is store), len(store), output)
    run.work.close()


if __name__ == "__main__":
    run(main, parser())
