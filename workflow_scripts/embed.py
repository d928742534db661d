"""Embed view stores: features of every view, the space of the manifold filter, the metrics and the privacy audit.

One process embeds several stores with one network, because starting torch costs more than embedding a small set.

    python -m workflow_scripts.embed --network inception --weights weights/inception-2015-12-05.pt \\
        --views results/views/labelled.npy results/views/synthetic.npy \\
        --output results/embedding/labelled.npy results/embedding/synthetic.npy
"""

from __future__ import annotations

import argparse
from pathlib import Path

from workflow_scripts.cli import progress, run, stage_parser
from workflow_scripts.errors import UserError
from workflow_scripts.files import read_npy, write_npy


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--network", choices=["inception", "encoder"], required=True, help="which kind of network")
    parser.add_argument(
        "--weights", type=Path, required=True, help="its file: TorchScript Inception, or backbone.safetensors"
    )
    parser.add_argument("--backbone", default="resnet18", help="timm network of an encoder (default: resnet18)")
    parser.add_argument("--views", type=Path, nargs="+", required=True, help="uint8 stores (N, side, side)")
    parser.add_argument("--output", type=Path, nargs="+", required=True, help="one float32 (N, D) array per store")
    parser.add_argument("--batch-size", type=int, default=64, help="views per forward pass (default: 64)")
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: auto, a GPU if there is one)"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Embed each store."""
    if len(arguments.views) != len(arguments.output):
        raise UserError(f"{len(arguments.views)} stores (--views) but {len(arguments.output)} outputs (--output)")
    if arguments.batch_size < 1:
        raise UserError(f"--batch-size {arguments.batch_size} must be at least 1")
    import numpy as np
    import torch

    from workflow_scripts.manifold.features import embed, load_encoder, load_inception
    from workflow_scripts.training.device import select_device

    device = select_device(arguments.device, arguments.threads)
    # Neighbours are compared at their rims: full float32 and one algorithm, whatever trainings may use.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    if arguments.network == "inception":
        network = load_inception(arguments.weights, device)
    else:
        network = load_encoder(arguments.backbone, arguments.weights, device)
    for source, output in zip(arguments.views, arguments.output, strict=True):
        views = read_npy(source)
        if views.dtype != np.uint8 or views.ndim != 3 or not len(views):
            raise UserError(
                f"{source} is no view store: expected uint8 (N, side, side), got {views.dtype} {views.shape}"
            )
        batches = embed(views, network, arguments.batch_size)
        total = -(-len(views) // arguments.batch_size)
        write_npy(np.concatenate(list(progress(batches, f"embed {source.stem}", "batch", total))), output)


if __name__ == "__main__":
    run(main, parser())
