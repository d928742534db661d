"""Turn a checkpoint of guided-diffusion (the paper's framework) into a Diffusers folder that sample_shard can use.

The architecture is inferred from names and shapes. What they do not show must be given: view size, attention heads and
noise schedule. Not supported: use_new_attention_order, conv_resample=False, no learn_sigma, no use_scale_shift_norm.

    python -m workflow_scripts.diffusion.import_guided_diffusion --input ema_0.9999_100000.pt --size 256 --heads 4 \\
        --output-model model
"""

from __future__ import annotations

import argparse
from pathlib import Path

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import say
from workflow_scripts.runtime.arguments import add_outputs
from workflow_scripts.runtime.cli import run, stage_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument(
        "--input",
        type=Path,
        required=True,
        help="state dict as torch.save wrote it (.pt), preferably of the EMA weights",
    )
    parser.add_argument("--size", type=int, required=True, help="side of the views in pixels (image_size)")
    heads = parser.add_mutually_exclusive_group(required=True)
    heads.add_argument("--heads", type=int, help="attention heads of every level (num_heads)")
    heads.add_argument("--head-channels", type=int, help="channels of a head (num_head_channels)")
    parser.add_argument("--timesteps", type=int, default=1000, help="diffusion_steps (default: 1000)")
    parser.add_argument(
        "--schedule", choices=("cosine", "linear"), default="cosine", help="noise_schedule (default: cosine)"
    )
    add_outputs(parser, "model")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, infer, rename, write."""
    import torch

    from workflow_scripts.core.files import atomic_directory, sha256, write_json, write_text
    from workflow_scripts.diffusion.card import import_card
    from workflow_scripts.diffusion.pipeline import refuse_foreign_folder, save_pipeline
    from workflow_scripts.diffusion.unet import import_state, infer_architecture

    if not arguments.input.is_file():
        raise UserError(f"{arguments.input} is not a file")
    refuse_foreign_folder(arguments.output_model)
    source_hash = sha256(arguments.input)
    try:
        state = torch.load(arguments.input, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle fails in any way; torch's own advice would be to execute it
        raise UserError(
            f"{arguments.input} is not a checkpoint of plain tensors, or it is truncated ({type(error).__name__}); nothing "
            "of it was executed"
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise UserError(f"{arguments.input} is not a state dict (names to tensors)")
    damaged = next((name for name, value in state.items() if not bool(torch.isfinite(value).all())), None)
    if damaged is not None:
        raise UserError(f"{arguments.input}: {damaged} holds values that are not finite")
    plan = infer_architecture(state, arguments.size, arguments.heads, arguments.head_channels)
    unet = import_state(state, plan)
    parameters = {"origin": arguments.input.name, "origin_sha256": source_hash, "architecture": vars(plan)}
    with atomic_directory(arguments.output_model) as folder:
        save_pipeline(unet, arguments.timesteps, arguments.schedule, folder)
        write_json(parameters, folder / "parameters.json")
        write_text(import_card(arguments.input.name), folder / "README.md")
    say(f"{len(state)} tensors, channels {plan.channels}, {sum(p.numel() for p in unet.parameters())} parameters")


if __name__ == "__main__":
    run(main, parser())
