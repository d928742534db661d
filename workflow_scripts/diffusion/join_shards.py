"""Join the shards of synthetic views into one view store with its index.

    python -m workflow_scripts.diffusion.join_shards --shards synthesis/shards/0.npy synthesis/shards/1.npy --organ testicle \\
        --output-views views/synthetic.npy --output-index views/synthetic.csv
"""

from __future__ import annotations

import argparse
from pathlib import Path

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import say
from workflow_scripts.runtime.cli import run, stage_parser

COLUMNS = ("view_id", "image_id", "patient_id", "organ", "label", "view")
ROWS_AT_ONCE = 256


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--shards", type=Path, nargs="+", required=True, help="the shards in order (.npy)")
    parser.add_argument("--organ", required=True, help="organ that the views show")
    parser.add_argument(
        "--classes",
        nargs="*",
        default=[],
        help="classes that a conditional model was asked for in turn (default: none)",
    )
    parser.add_argument("--output-views", type=Path, required=True, help=".npy, uint8 (N, size, size)")
    parser.add_argument("--output-index", type=Path, required=True, help="index of the store (.csv)")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Copy shard after shard, a few rows at a time, and name the rows."""
    import numpy as np

    from workflow_scripts.core.files import atomic_path, read_npy, write_rows

    shards = [read_npy(path) for path in arguments.shards]
    for path, shard in zip(arguments.shards, shards, strict=True):
        if shard.dtype != np.uint8 or shard.ndim != 3:
            raise UserError(f"{path} is no shard of uint8 views (n, size, size): {shard.dtype} {shard.shape}")
        if shard.shape[1:] != shards[0].shape[1:]:
            raise UserError(
                f"{path} holds views of {shard.shape[1:]} pixels, {arguments.shards[0]} of {shards[0].shape[1:]}: they "
                "come from different models. Sample all shards again"
            )
    total = sum(len(shard) for shard in shards)
    with atomic_path(arguments.output_views) as temporary:
        store = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=(total, *shards[0].shape[1:]))
        row = 0
        for shard in shards:
            for start in range(0, len(shard), ROWS_AT_ONCE):
                part = shard[start : start + ROWS_AT_ONCE]
                store[row : row + len(part)] = part
                row += len(part)
        store.flush()
        del store
    classes = arguments.classes or [""]
    constant = {"patient_id": "", "organ": arguments.organ, "view": "synthetic"}
    rows = [
        {"view_id": name, "image_id": name, "label": classes[row % len(classes)], **constant}
        for row, name in enumerate(f"synthetic_{row:06d}" for row in range(total))
    ]
    write_rows(rows, COLUMNS, arguments.output_index)
    say(f"{total} synthetic views from {len(shards)} shards")


if __name__ == "__main__":
    run(main, parser())
