"""Embed view stores: features of every view, the space of the manifold filter, the metrics and the privacy audit.

One process embeds several stores with one network, because starting torch costs more than embedding a small set. With
--output-copies it also trains the copy encoder on the first store, real views that the generator saw and held-out ones
alike, and embeds the first store, the second and planted copies of the views that the generator saw. Finished blocks of
views survive an interruption.

    python -m workflow_scripts.synthesis.embed --network inception --weights weights/weights-inception-2015-12-05-6726825d.pth \\
        --views results/views/labelled.npy results/views/synthetic.npy \\
        --output results/embedding/labelled.npy results/embedding/synthetic.npy --work-dir work/embedding
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv, read_npy, write_npy, write_npy_blocks
from workflow_scripts.core.log import progress
from workflow_scripts.runtime.cli import add_settings, add_training, run, settings, stage_parser
from workflow_scripts.study.config.manifold import PrivacyRecipe
from workflow_scripts.study.patients import add_reference, check_rows, real_masks

if TYPE_CHECKING:
    import numpy as np
    import torch

BATCHES = 16  # of a block, what is saved at a time


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument(
        "--network", choices=["inception", "encoder", "timm"], required=True, help="which kind of network"
    )
    parser.add_argument(
        "--weights",
        type=Path,
        required=True,
        help="its file: Inception's state dictionary, backbone.safetensors, or those of a timm network",
    )
    parser.add_argument("--backbone", default="resnet18", help="timm network of an encoder or timm (default: resnet18)")
    parser.add_argument("--views", type=Path, nargs="+", required=True, help="uint8 stores (N, side, side)")
    parser.add_argument("--output", type=Path, nargs="+", required=True, help="one float32 (N, D) array per store")
    parser.add_argument("--real-index", type=Path, help="index of the first store, for --output-copies")
    parser.add_argument(
        "--output-copies",
        type=Path,
        nargs=3,
        help="the copy encoder's features of the first store, the second, and planted copies (kinds, copies, D)",
    )
    add_reference(parser)
    add_settings(parser, PrivacyRecipe)
    parser.add_argument("--batch-size", type=int, default=64, help="views per forward pass (default: 64)")
    add_training(parser)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Embed each store."""
    if len(arguments.views) != len(arguments.output):
        raise UserError(f"{len(arguments.views)} stores (--views) but {len(arguments.output)} outputs (--output)")
    if len(set(arguments.views)) < len(arguments.views):
        raise UserError("a store is named twice (--views)")
    if arguments.batch_size < 1:
        raise UserError(f"--batch-size {arguments.batch_size} must be at least 1")
    import numpy as np
    import torch

    from workflow_scripts.core.files import sha256
    from workflow_scripts.runtime.device import select_device
    from workflow_scripts.runtime.work import Clock, Interrupted, WorkDir
    from workflow_scripts.synthesis.features import embed, load_network

    clock = Clock(arguments.time_limit)
    device = select_device(arguments.device, arguments.threads)
    # Neighbours are compared at their rims: full float32 and one algorithm, whatever trainings may use.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    network = load_network(arguments.network, arguments.backbone, arguments.weights, device)
    stores = {source: view_store(source) for source in arguments.views}
    work = WorkDir(
        arguments.work_dir,
        {
            "network": [arguments.network, arguments.backbone, sha256(arguments.weights)],
            "views": [sha256(source) for source in arguments.views],
            "batch_size": arguments.batch_size,
            "device": device.type,
            "code_version": arguments.code_version,
        },
    )
    size = BATCHES * arguments.batch_size
    files = {
        source: [work.path / f"{number}_{block}.npy" for block in range(-(-len(views) // size))]
        for number, (source, views) in enumerate(stores.items())
    }
    before, blocks = 0, sum(map(len, files.values()))
    for source, views in stores.items():
        done = min(max(work.state["progress"] - before, 0), len(files[source]))
        total = -(-len(views) // arguments.batch_size)
        batches = embed(views, network, arguments.batch_size, done * size)
        block: list[np.ndarray] = []
        for features in progress(batches, f"embed {source.stem}", "batch", total, done * BATCHES):
            block.append(features)
            if len(block) < BATCHES and done * BATCHES + len(block) < total:
                continue
            write_npy(np.concatenate(block), files[source][done])
            block, done = [], done + 1
            work.advance(before + done)
            if clock.is_over() and (before + done < blocks or arguments.output_copies):
                raise Interrupted(f"time is over after {before + done} of {blocks} blocks of views; try again to go on")
        before += len(files[source])
    for (source, views), output in zip(stores.items(), arguments.output, strict=True):
        write_npy_blocks((read_npy(file) for file in files[source]), len(views), output)
    if arguments.output_copies:
        embed_copies(arguments, device)
    work.close()


def view_store(source: Path) -> np.ndarray:
    """The store, read as it is needed; `UserError` if it is none."""
    views = read_npy(source)
    if views.dtype != "uint8" or views.ndim != 3 or not len(views):
        raise UserError(f"{source} is no view store: expected uint8 (N, side, side), got {views.dtype} {views.shape}")
    return views


def embed_copies(arguments: argparse.Namespace, device: torch.device) -> None:
    """Train the copy encoder and write its features."""
    import numpy as np

    from workflow_scripts.privacy.copy_encoder import copy_features, train_copy_encoder
    from workflow_scripts.privacy.planted import planted_copies, planted_rows

    if arguments.real_index is None or len(arguments.views) != 2:
        raise UserError("--output-copies needs two stores (--views), of real and of generated views, and --real-index")
    recipe: PrivacyRecipe = settings(arguments)
    steps, seed = recipe.encoder_steps, recipe.seed
    views, synthetic = (read_npy(path) for path in arguments.views)
    index = read_csv(arguments.real_index)
    check_rows({str(arguments.views[0]): len(views), str(arguments.real_index): len(index)})
    training, held_out = real_masks(index, arguments.holdout, arguments.folds, arguments.exclude_fold)
    if not training.any():
        raise UserError(f"{arguments.holdout} and the excluded fold leave no training views to plant copies of")
    learning = train_copy_encoder(views[training | held_out], steps, seed, device)
    for encoder in progress(learning, "copy encoder", "step", steps):
        network = encoder
    known = views[training]
    copies = planted_copies(known[planted_rows(len(known), seed)], recipe.shift, seed)
    planted = np.stack([copy_features(network, copy, device) for copy in copies.values()])
    for features, output in zip(
        (copy_features(network, views, device), copy_features(network, synthetic, device), planted),
        arguments.output_copies,
        strict=True,
    ):
        write_npy(features, output)


if __name__ == "__main__":
    run(main, parser())
