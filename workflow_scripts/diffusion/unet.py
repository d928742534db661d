"""The diffusion model's network: guided-diffusion's U-Net (Dhariwal and Nichol 2021) as a Diffusers `UNet2DModel`.

Also reads state dicts of guided-diffusion itself, so that models trained with the paper's framework can be used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from diffusers import UNet2DModel

from workflow_scripts.core.errors import UserError

GROUPS = 32  # of every group norm, as in guided-diffusion
IMAGE_CHANNELS, OUTPUT_CHANNELS = 1, 2  # grey; predicted noise and variance position


@dataclass(frozen=True)
class Architecture:
    """What makes a U-Net.

    `channels` and `attends` have one entry per level, finest first; the middle block always attends. `head_size` is the
    channels of an attention head: UNet2DModel has one for all levels, so a level with fewer channels has fewer heads.
    `resnet_resampling` resamples in residual blocks instead of strided convolutions (`resblock_updown`).
    """

    size: int
    channels: tuple[int, ...]
    attends: tuple[bool, ...]
    residual_blocks: int
    head_size: int
    dropout: float = 0.0
    resnet_resampling: bool = False
    classes: int | None = None

    def __post_init__(self) -> None:
        levels, coarsest = len(self.channels), 2 ** (len(self.channels) - 1)
        if self.size % coarsest:
            raise UserError(
                f"size {self.size} cannot be halved {levels - 1} times; with {levels} channel_multipliers it must be a "
                f"multiple of {coarsest}"
            )
        bad = [count for count in self.channels if count % GROUPS]
        if bad:
            raise UserError(
                f"{bad[0]} channels do not fall into {GROUPS} groups; make base_channels a multiple of {GROUPS}"
            )
        for count, attends in zip(self.channels, (*self.attends[:-1], True), strict=True):
            if attends and count % self.head_size:
                raise UserError(
                    f"{count} channels do not divide into attention heads of {self.head_size}, the head size of every "
                    "level; change heads, channel_multipliers or attention_resolutions"
                )


def architecture(
    size: int,
    base_channels: int,
    channel_multipliers: Sequence[int],
    residual_blocks: int,
    attention_resolutions: Sequence[int],
    heads: int,
    dropout: float,
    classes: int | None = None,
) -> Architecture:
    """The architecture that the config's `diffusion.recipe` describes for `size` x `size` views; UserError if none.

    `heads` counts those of the deepest level, where most of the attention happens; others have heads of that size.
    """
    sides = [size // 2**level for level in range(len(channel_multipliers))]
    unknown = sorted(set(attention_resolutions) - set(sides))
    if unknown:
        raise UserError(
            f"attention_resolutions {unknown}: no level has that side; at size {size} with {len(sides)} "
            f"channel_multipliers the levels have {sides}"
        )
    channels = tuple(base_channels * multiplier for multiplier in channel_multipliers)
    if channels[-1] % heads:
        raise UserError(f"{channels[-1]} channels of the deepest level do not divide into {heads} heads")
    attends = tuple(side in attention_resolutions for side in sides)
    return Architecture(size, channels, attends, residual_blocks, channels[-1] // heads, dropout, classes=classes)


def build_unet(
    size: int,
    base_channels: int,
    channel_multipliers: Sequence[int],
    residual_blocks: int,
    attention_resolutions: Sequence[int],
    heads: int,
    dropout: float,
    classes: int | None = None,
) -> UNet2DModel:
    """A fresh U-Net: (N, 1, size, size), timesteps (N,) and any class labels (N,) to `.sample` (N, 2, size, size).

    Initialised as guided-diffusion does: every residual and attention branch and the output start at zero, the rest as
    torch's layers do.
    """
    unet = assemble(
        architecture(
            size, base_channels, channel_multipliers, residual_blocks, attention_resolutions, heads, dropout, classes
        )
    )
    for name, module in unet.named_modules():
        if name.endswith(("conv2", "to_out.0", "conv_out")):
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
    return unet


def assemble(plan: Architecture) -> UNet2DModel:
    """The `UNet2DModel` that computes what guided-diffusion's U-Net of that architecture computes."""
    resampling = "resnet" if plan.resnet_resampling else "conv"
    prefix = "Resnet" if plan.resnet_resampling else ""
    down = [f"{prefix}Down{'sample' * plan.resnet_resampling}Block2D", "AttnDownBlock2D"]
    up = [f"{prefix}Up{'sample' * plan.resnet_resampling}Block2D", "AttnUpBlock2D"]
    return UNet2DModel(
        sample_size=plan.size,
        in_channels=IMAGE_CHANNELS,
        out_channels=OUTPUT_CHANNELS,
        time_embedding_type="positional",
        freq_shift=0,
        flip_sin_to_cos=True,
        down_block_types=tuple(down[attends] for attends in plan.attends),
        up_block_types=tuple(up[attends] for attends in reversed(plan.attends)),
        block_out_channels=plan.channels,
        layers_per_block=plan.residual_blocks,
        downsample_type=resampling,
        upsample_type=resampling,
        dropout=plan.dropout,
        attention_head_dim=plan.head_size,
        norm_num_groups=GROUPS,
        attn_norm_num_groups=GROUPS,
        norm_eps=1e-5,
        resnet_time_scale_shift="scale_shift",
        num_class_embeds=plan.classes,
    )


# --- guided-diffusion's own state dicts -------------------------------------------------------------------------------

RESIDUAL_NAMES = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
OUTER_NAMES = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}


def infer_architecture(
    state: Mapping[str, torch.Tensor], size: int, heads: int | None = None, head_size: int | None = None
) -> Architecture:
    """The architecture behind a guided-diffusion state dict, from names and shapes.

    Neither the view size nor the split into heads shows there: `size`, and one of `heads` (num_heads, the same at every
    level) and `head_size` (num_head_channels), must be known. UserError for anything that is not a supported U-Net.
    """
    if (heads is None) == (head_size is None):
        raise UserError("give either the number of attention heads or the channels of a head")
    if (heads or head_size or 0) < 1:
        raise UserError(f"attention heads and their channels must be at least 1, not {heads or head_size or 0}")
    blocks = 1 + max((int(key.split(".")[1]) for key in state if key.startswith("output_blocks.")), default=-1)
    try:
        inputs, outputs = state["input_blocks.0.0.weight"].shape[1], state["out.2.weight"].shape[0]
        widths = [state[f"output_blocks.{block}.0.out_layers.3.weight"].shape[0] for block in range(blocks)]
        shifts = [state[f"output_blocks.{block}.0.emb_layers.1.weight"].shape[0] for block in range(blocks)]
        deepest = state["middle_block.1.proj_out.weight"].shape[0]
    except KeyError as error:
        raise UserError(f"this is not the state dict of a guided-diffusion U-Net: it has no {error}") from None
    except IndexError:
        raise UserError("this is not the state dict of a guided-diffusion U-Net: a weight is a scalar") from None
    if (inputs, outputs) != (IMAGE_CHANNELS, OUTPUT_CHANNELS):
        raise UserError(
            f"the network maps {inputs} channels to {outputs}; needed: {IMAGE_CHANNELS} (grey) to {OUTPUT_CHANNELS} "
            "(noise and learned variance, --learn_sigma)"
        )
    if shifts != [2 * width for width in widths]:
        raise UserError("the network was trained without --use_scale_shift_norm, which is not supported")
    # A level of the way up ends with its upsampling, the last module of its last block.
    attention = [f"output_blocks.{block}.1.qkv.weight" in state for block in range(blocks)]
    upsampling = [f"output_blocks.{block}.{1 + attention[block]}" for block in range(blocks)]
    convolutions = [f"{name}.conv.weight" in state for name in upsampling]
    residuals = [f"{name}.in_layers.0.weight" in state for name in upsampling]
    ends = [block for block in range(blocks) if convolutions[block] or residuals[block]]
    per_level = (ends[0] if ends else blocks - 1) + 1
    if ends != list(range(per_level - 1, blocks - 1, per_level)) or blocks % per_level or per_level < 2:
        raise UserError("the blocks of this state dict do not form the levels of a guided-diffusion U-Net")
    channels, attends = tuple(widths[::-per_level]), tuple(attention[::-per_level])
    if head_size is None:
        assert heads is not None
        attending = {deepest, *(count for count, here in zip(channels, attends, strict=True) if here)}
        if len(attending) > 1:
            raise UserError(
                f"levels of {sorted(attending)} channels attend with {heads} heads each; a Diffusers UNet2DModel has "
                "heads of one size, so such a model cannot be imported"
            )
        if deepest % heads:
            raise UserError(f"{deepest} channels do not divide into {heads} heads")
        head_size = deepest // heads
    classes = state["label_emb.weight"].shape[0] if "label_emb.weight" in state else None
    return Architecture(size, channels, attends, per_level - 1, head_size, 0.0, any(residuals), classes)


def convert_state(state: Mapping[str, torch.Tensor], plan: Architecture) -> dict[str, torch.Tensor]:
    """A guided-diffusion state dict in the names and layouts of `assemble(plan)`; UserError if a key is left over."""
    left = dict(state)
    converted: dict[str, torch.Tensor] = {}

    def move(old: str, new: str) -> None:
        for kind in ("weight", "bias"):
            if f"{old}.{kind}" in left:
                converted[f"{new}.{kind}"] = left.pop(f"{old}.{kind}").float()

    for old, new in OUTER_NAMES.items():
        move(old, new)
    if plan.classes is not None:
        move("label_emb", "class_embedding")
    for kind, old, new in _blocks(plan):
        if kind == "residual":
            for inner, renamed in RESIDUAL_NAMES.items():
                move(f"{old}.{inner}", f"{new}.{renamed}")
        elif kind == "attention":
            move(f"{old}.norm", f"{new}.group_norm")
            _move_attention(left, converted, old, new, plan.head_size)
        else:
            move(old, new)
    if left:
        raise UserError(f"{len(left)} keys of the state dict fit nowhere, the first: {', '.join(sorted(left)[:5])}")
    return converted


def import_state(state: Mapping[str, torch.Tensor], plan: Architecture) -> UNet2DModel:
    """A U-Net with a guided-diffusion state dict's weights; UserError if any is missing, left over or misshapen."""
    unet = assemble(plan)
    try:
        unet.load_state_dict(convert_state(state, plan))
    except RuntimeError as error:
        raise UserError(f"the state dict does not fit the architecture read from it: {error}") from None
    return unet


def _move_attention(
    left: dict[str, torch.Tensor], converted: dict[str, torch.Tensor], old: str, new: str, head_size: int
) -> None:
    """Split `qkv`, whose rows are q, k and v of head 1, then of head 2, …; 1x1 convolutions become linear layers."""
    for kind in ("weight", "bias"):
        if f"{old}.qkv.{kind}" not in left or f"{old}.proj_out.{kind}" not in left:
            continue  # the missing target is reported when the weights are loaded
        rows = left.pop(f"{old}.qkv.{kind}").float()
        if rows.shape[0] % (3 * head_size):
            raise UserError(
                f"{old}.qkv has {rows.shape[0]} rows, which is not a multiple of 3 x {head_size} (heads of {head_size})"
            )
        inner = rows.shape[1:2]
        per_head = rows.reshape(-1, 3, head_size, *inner)
        for index, name in enumerate(("to_q", "to_k", "to_v")):
            converted[f"{new}.{name}.{kind}"] = per_head[:, index].reshape(-1, *inner).clone()
        projection = left.pop(f"{old}.proj_out.{kind}").float()
        converted[f"{new}.to_out.0.{kind}"] = projection.reshape(projection.shape[:2])


def _blocks(plan: Architecture) -> Iterator[tuple[str, str, str]]:
    """(kind, guided-diffusion's name, Diffusers' name) of every block; kinds: residual, attention, convolution."""
    levels = len(plan.channels)
    number = 1
    for level in range(levels):
        for block in range(plan.residual_blocks):
            yield "residual", f"input_blocks.{number}.0", f"down_blocks.{level}.resnets.{block}"
            if plan.attends[level]:
                yield "attention", f"input_blocks.{number}.1", f"down_blocks.{level}.attentions.{block}"
            number += 1
        if level < levels - 1:
            if plan.resnet_resampling:
                yield "residual", f"input_blocks.{number}.0", f"down_blocks.{level}.downsamplers.0"
            else:
                yield "convolution", f"input_blocks.{number}.0.op", f"down_blocks.{level}.downsamplers.0.conv"
            number += 1
    yield "residual", "middle_block.0", "mid_block.resnets.0"
    yield "attention", "middle_block.1", "mid_block.attentions.0"
    yield "residual", "middle_block.2", "mid_block.resnets.1"
    number = 0
    for level in range(levels):  # coarsest first
        attends = plan.attends[levels - 1 - level]
        for block in range(plan.residual_blocks + 1):
            yield "residual", f"output_blocks.{number}.0", f"up_blocks.{level}.resnets.{block}"
            if attends:
                yield "attention", f"output_blocks.{number}.1", f"up_blocks.{level}.attentions.{block}"
            if block == plan.residual_blocks and level < levels - 1:
                old = f"output_blocks.{number}.{1 + attends}"
                if plan.resnet_resampling:
                    yield "residual", old, f"up_blocks.{level}.upsamplers.0"
                else:
                    yield "convolution", f"{old}.conv", f"up_blocks.{level}.upsamplers.0.conv"
            number += 1
