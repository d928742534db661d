"""Join the shards of synthetic views into one view store with its index.

    python -m workflow_scripts.diffusion.join_shards --shards synthesis/shards/0.npy synthesis/shards/1.npy --organ testicle \\
        --output-views views/synthetic.npy --output-index views/synthetic.csv
"""

from __future__ import annotations

import argparse

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import say
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser

COLUMNS = ("view_id", "image_id", "patient_id", "organ", "label", "view")
ROWS_AT_ONCE = 256


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "shards+")
    add_outputs(parser, "views index")
    add_parameters(parser, "organ asked_classes")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Copy shard after shard, a few rows at a time, and write the index."""
    from workflow_scripts.core.files import write_npy_blocks, write_rows
    from workflow_scripts.core.store import open_pixels

    shards = [open_pixels(path) for path in arguments.shards]
    for path, shard in zip(arguments.shards, shards, strict=True):
        if shard.shape[1:] != shards[0].shape[1:]:
            raise UserError(
                f"{path} holds views of {shard.shape[1:]} pixels, {arguments.shards[0]} of {shards[0].shape[1:]}: they "
                "come from different models. Sample all shards again"
            )
    total = sum(len(shard) for shard in shards)
    blocks = (shard[row : row + ROWS_AT_ONCE] for shard in shards for row in range(0, len(shard), ROWS_AT_ONCE))
    write_npy_blocks(blocks, total, arguments.output_views)
    classes = arguments.asked_classes or [""]
    constant = {"patient_id": "", "organ": arguments.organ, "view": "synthetic"}
    rows = [
        {"view_id": name, "image_id": name, "label": classes[row % len(classes)], **constant}
        for row, name in enumerate(f"synthetic_{row:06d}" for row in range(total))
    ]
    write_rows(rows, COLUMNS, arguments.output_index)
    say(f"{total} synthetic views from {len(shards)} shards")


if __name__ == "__main__":
    run(main, parser())
