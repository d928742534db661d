"""Section `pretraining` of the config."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, field_serializer

from workflow_scripts.core.errors import names
from workflow_scripts.study.config.base import (
    Distinct,
    Name,
    Network,
    Normalisation,
    Number,
    Probability,
    Problem,
    Settings,
    Share,
    Size,
    Text,
    Whole,
    Width,
    cross_check,
)
from workflow_scripts.study.config.names import BASELINES


class PretrainingAugmentation(Settings):
    """The two random views of an image, drawn per image."""

    views: Literal["symmetric", "released"] = Field(
        "symmetric",
        description="symmetric: both views by the magnitudes below. released: the released code's two recipes, "
        "one for each view (docs/paper.md), and none of the magnitudes.",
    )
    crop_scale: Number = Field(
        0.5, le=1, gt=0, description="Smallest area of the random resized crop as a share of the view."
    )
    crop_ratio: Number = Field(1.25, ge=1, description="Largest aspect ratio of the crop (and 1 / it the smallest).")
    flip: Probability = Field(0.5, description="Probability of a horizontal flip.")
    flip_vertical: Probability = Field(
        0.0, description="Probability of a vertical flip; none by default, since shadows point down."
    )
    rotation: Number = Field(30.0, ge=0, le=180, description="Largest rotation in degrees, either way.")
    jitter: Probability = Field(1.0, description="Probability that brightness and contrast change.")
    brightness: Number = Field(0.4, ge=0, le=1, description="Largest relative change of brightness.")
    contrast: Number = Field(0.4, ge=0, le=1, description="Largest relative change of contrast.")
    blur: Probability = Field(0.2, description="Probability of a light Gaussian blur.")
    sharpness: Probability = Field(0.0, description="Probability of a sharpening.")
    black_square: Number = Field(
        0.25, ge=0, le=0.9, description="Largest side of a blacked-out square as a share of the side; 0 means none."
    )
    black_square_smallest: Number = Field(0.0, ge=0, le=0.9, description="Its smallest side.")
    mask_markers: Probability = Field(
        0.0,
        description="Probability that calliper markers (circles, plus signs) are looked for in the view and "
        "blacked out; for views of 96 pixels and more.",
    )


class PretrainingRecipe(Settings):
    """How a backbone is pretrained."""

    seed: Whole = Field(333, ge=0, description="Seed of initial weights and of every draw.")
    steps: Whole = Field(5000, ge=1, description="Optimisation steps, the same for every mix.")
    batch_size: Size = Field(1024, ge=2, description="Images per step (N of Eq. 2; 2N views), over all processes.")
    chunk: Whole = Field(
        0,
        ge=0,
        description="Images encoded at a time, with gradient caching: memory follows the chunk. Batch norm then "
        "normalises each chunk by itself, so it is part of the model. 0: the whole batch.",
    )
    activation_checkpointing: bool = Field(
        False,
        description="Compute activations a second time instead of keeping them: a third slower, a fraction of "
        "the memory, the same result.",
    )
    loss_con: bool = Field(
        True, description="Use the contrastive loss L_con (Eq. 2); false trains with L_sup alone, unweighted."
    )
    organ_weight: Number = Field(
        0.2,
        ge=0,
        description="Weight lambda of the organ loss L_sup (Eq. 4); 0, and mixes of one organ, use L_con alone.",
    )
    organ_loss: Literal["mean", "sum"] = Field(
        "mean",
        description="L_sup over the two views of each image. mean: Eq. 3; sum: twice that (the released code).",
    )
    temperature: Number = Field(0.5, gt=0, description="Temperature tau of Eq. 1.")
    projection: list[Width] = Field(
        [2048, 2048],
        min_length=1,
        max_length=16,
        description="Layer widths of the projection head g after the backbone.",
    )
    pairs: Literal["view", "frame"] = Field(
        "view",
        description="What the two augmented views of a positive pair are of. view (the paper): one view. frame: two views of one "
        "frame, where it has two (the idea of MICLe; Azizi et al. 2021).",
    )
    optimiser: Literal["lars", "adamw", "released"] = Field(
        "lars",
        description="lars: timm's Lars, biases and norms neither adapted nor decayed. adamw: torch's. released: "
        "Adam behind LARC's scaling of the gradients, as the released code trained (with lr 1e-3 and "
        "weight_decay 1e-4).",
    )
    lr: Number = Field(2.4, gt=0, description="Peak learning rate; 0.075 sqrt(batch) for lars.")
    weight_decay: Number = Field(1e-06, ge=0, description="Weight decay of weights; none on biases and norms.")
    warmup: Number = Field(
        0.1, ge=0, le=1, description="Share of the steps with linear warm-up, then polynomial decay (power 1) to 0."
    )
    checkpoint_every: Whole = Field(500, ge=1, description="Steps between checkpoints.")
    augmentation: PretrainingAugmentation = Field(
        default_factory=PretrainingAugmentation, description="The two random views of an image, drawn per image."
    )


class PretrainingRun(Settings):
    """A pretraining run: its mix of views and what it changes in the recipe."""

    sets: Distinct[Name] = Field(
        min_length=1,
        description="View sets: `labelled`, an organ's name for its unlabelled views, `synthetic`, `filtered`.",
    )
    weights: dict[str, Share] = Field(
        {},
        description="Share of a set's views that an epoch draws, without replacement and chosen afresh each "
        "time, by the set's name; 1 where left out.",
    )
    init: Name = Field("scratch", description="Initialisation that pretraining itself starts from.")
    backbone: Network | None = Field(None, description="timm network that is pretrained; that of `init` when left out.")
    normalisation: Normalisation | None = Field(
        None, description="Input normalisation of this run and of what starts from it; that of `init` when left out."
    )
    title: Text | None = Field(None, description="Default name of its table rows; the key itself when left out.")
    recipe: PretrainingRecipe = Field(
        default_factory=PretrainingRecipe, description="Keys of pretraining.recipe that differ for this run."
    )

    @field_serializer("recipe")
    def _only_changes(self, recipe: PretrainingRecipe) -> dict[str, Any]:
        return recipe.model_dump(exclude_unset=True)

    @cross_check
    def _weights_are_of_sets(self) -> Iterator[Problem]:
        for stranger in sorted(set(self.weights) - set(self.sets)):
            yield ("weights", stranger), f"{stranger!r} is none of the run's sets: {names(self.sets)}"


class Pretraining(Settings):
    """Contrastive pretraining (paper, Sec. 4.1)."""

    seeds: Whole = Field(
        1,
        ge=1,
        description="Times that each run is pretrained, from recipe.seed on; fine-tuning seed s starts from "
        "number s modulo this. From three on, tests include the spread between pretrainings. Not "
        "with holdout: per_fold, where each fold has its own.",
    )
    recipe: PretrainingRecipe = Field(
        default_factory=PretrainingRecipe, description="How backbones are pretrained, unless a run says otherwise."
    )
    runs: dict[Name, PretrainingRun] = Field(
        {}, description="Pretraining runs by name; each a data mix, and whatever it changes in the recipe."
    )

    @cross_check
    def _runs_are_not_baselines(self) -> Iterator[Problem]:
        for name in self.runs:
            if name in BASELINES:
                yield ("runs", name), f"{name!r} is the name of a baseline; choose another"
