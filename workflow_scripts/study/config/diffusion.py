"""Section `diffusion` of the config."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from workflow_scripts.study.config.base import (
    FilePath,
    Number,
    Positive,
    Probability,
    Problem,
    Settings,
    Size,
    Whole,
    Width,
    cross_check,
)


class MonitorRecipe(Settings):
    """How the snapshots of a diffusion training run are compared."""

    images: Whole = Field(256, ge=8, le=10_000_000, description="Images drawn from each snapshot.")
    steps: Whole = Field(50, ge=2, description="Ancestral sampling steps of these images.")
    batch_size: Size = Field(64, ge=1, description="Images sampled together.")
    seed: Whole = Field(
        0, ge=0, description="Seed of these images and of the denoising noise, the same for every snapshot."
    )


class DiffusionRecipe(Settings):
    """How the diffusion model is trained."""

    seed: Whole = Field(0, ge=0, description="Seed of initial weights and of every draw.")
    base_channels: Whole = Field(
        128,
        ge=32,
        le=4096,
        multiple_of=32,
        description="Channels of the first level of the U-Net, a multiple of 32 (the groups of its norms).",
    )
    channel_multipliers: list[Width] = Field(
        [1, 1, 2, 2, 4, 4], min_length=1, description="Channels of each level, relative to the first."
    )
    residual_blocks: Size = Field(2, ge=1, description="Residual blocks per level.")
    attention_resolutions: list[Positive] = Field([16, 8], description="Sides in pixels of the levels that attend.")
    heads: Size = Field(
        4,
        ge=1,
        description="Attention heads of the deepest level; levels with fewer channels have fewer heads of the "
        "same size.",
    )
    dropout: Probability = Field(0.1, description="Dropout in residual blocks (the released code has 0).")
    timesteps: Whole = Field(1000, ge=2, le=100_000, description="Timesteps T of the forward process.")
    schedule: Literal["cosine", "linear"] = Field("cosine", description="Noise schedule of the forward process.")
    steps: Whole = Field(
        50000, ge=1, description="Optimisation steps (released code: 1 000 000, 18 000 passes over 880 views)."
    )
    batch_size: Size = Field(16, ge=1, description="Views per step, over all GPUs.")
    accumulate: Size = Field(
        1,
        ge=1,
        description="Parts that each GPU works its share of a batch through in, one after the other: the same "
        "gradient on a card with less memory.",
    )
    precision: Literal["auto", "float32", "bf16", "fp16"] = Field(
        "auto",
        description="Arithmetic inside the network; weights and losses stay float32. auto: bf16 on GPUs that "
        "have it, fp16 with scaled gradients on older ones (Turing), float32 on a CPU.",
    )
    lr: Number = Field(0.0001, gt=0, description="AdamW learning rate after the warm-up.")
    lr_schedule: Literal["constant", "linear"] = Field(
        "constant",
        description="Learning rate after the warm-up: constant, or falling linearly to 0 over all steps (the released code).",
    )
    warmup_steps: Whole = Field(1000, ge=0, description="Steps of linear warm-up.")
    ema: Number = Field(
        0.9999, ge=0, lt=1, description="Largest decay of the averaged weights, reached as 1-(1+t)^-0.75."
    )
    flip: Probability = Field(0.5, description="Probability of a horizontal flip.")
    augment: Literal["none", "small_data"] = Field(
        "none",
        description="small_data, for fewer than some thousand views: they are sometimes scaled, turned, "
        "stretched or shifted, and the network is conditioned on it, so that sampled views are not; "
        "with it dropout 0.25.",
    )
    label_dropout: Probability = Field(
        0.1, description="Probability that a class-conditional model is given no class, which guidance needs."
    )
    checkpoint_every: Whole = Field(2500, ge=1, description="Steps between checkpoints.")
    grid_every: Whole = Field(
        2500,
        ge=0,
        description="Steps between grids of 16 samples of the averaged weights, drawn from the same noise every "
        "time (`samples/` in the model's folder, and TensorBoard); 0: none.",
    )


class Diffusion(Settings):
    """The diffusion model (paper, Sec. 4.2)."""

    model: FilePath = Field(
        "",
        description="A Diffusers folder to sample from instead of training one; empty trains. It must not have "
        "seen the held-out patients, or the privacy audit is void.",
    )
    holdout_patients: Number = Field(
        0.15,
        ge=0,
        le=0.5,
        description="Share of the labelled patients whose views the generator never sees; the privacy audit "
        "needs them.",
    )
    class_conditional: bool = Field(
        False,
        description="Whether the model is conditioned on the labels of its views, so that it can be asked for a "
        "class (the paper's future work); the synthetic set then carries the label that each view "
        "was asked for.",
    )
    select: Literal["last", "best", "least_copying"] = Field(
        "last",
        description="Which checkpoint of the training run is used. last: the end; best: the last one up to the "
        "lowest held-out denoising loss that copies no more than chance; least_copying: the smallest "
        "excess of near-copies. All but `last` need held-out patients, and sample from every "
        "snapshot.",
    )
    snapshot_every: Whole = Field(
        5000,
        ge=1,
        description="Steps between the snapshots that `select` chooses from (100 M parameters: 0.4 GB each); "
        "none are kept for `select: last`.",
    )
    monitor: MonitorRecipe = Field(
        default_factory=MonitorRecipe, description="How the snapshots that `select` chooses from are compared."
    )
    recipe: DiffusionRecipe = Field(default_factory=DiffusionRecipe, description="How the diffusion model is trained.")

    @cross_check
    def _selection_has_patients(self) -> Iterator[Problem]:
        if self.select != "last" and not self.model and not self.holdout_patients:
            yield (
                ("select",),
                f"{self.select!r} judges checkpoints by held-out patients, and diffusion.holdout_patients is 0; raise it "
                "or set select: last",
            )
