"""Section `finetuning` of the config."""

from typing import Literal

from pydantic import Field

from workflow_scripts.study.config.base import Labels, Number, Probability, Settings, Whole


class FinetuningAugmentation(Settings):
    """Per-image augmentation of fine-tuning (paper, Sec. 4.3)."""

    markers: Probability = Field(
        0.3, description="Probability of each kind of calliper marker (circles, crosses, dashes, dotted line)."
    )
    rotation: Number = Field(10.0, ge=0, le=180, description="Largest rotation in degrees, either way.")
    flip: Probability = Field(0.5, description="Probability of a horizontal flip.")
    shift: Number = Field(
        0.05, ge=0, le=0.5, description="Largest shift as a share of the side, either way, in each direction."
    )


class FinetuningRecipe(Settings):
    """How a classifier is fine-tuned."""

    epochs: Whole = Field(30, ge=1, description="Passes over the training folds.")
    batch_size: Whole = Field(64, ge=2, description="Views per step.")
    backbone_lr: Number = Field(1e-05, ge=0, description="AdamW learning rate of the backbone.")
    head_lr: Number = Field(0.0001, gt=0, description="AdamW learning rate of the linear head.")
    weight_decay: Number = Field(1e-05, ge=0, description="AdamW weight decay.")
    sampler: Literal["weighted", "shuffle"] = Field(
        "weighted",
        description="weighted: each class is drawn equally often, with replacement; shuffle: every view once per "
        "epoch.",
    )
    coupled: Number = Field(
        0.0,
        ge=0,
        description="Weight of the symmetric Kullback-Leibler divergence between the predictions for the two views of an organ "
        "side, which are then trained together (the released code's coupled loss, 1); 0: each view alone.",
    )
    augmentation: FinetuningAugmentation = Field(
        default_factory=FinetuningAugmentation, description="Per-image augmentation of fine-tuning (paper, Sec. 4.3)."
    )


class Finetuning(Settings):
    """Fine-tuning on labelled views (paper, Sec. 4.3)."""

    labels: Labels = Field("flipped", description="Label set of every table row that names none.")
    recipe: FinetuningRecipe = Field(default_factory=FinetuningRecipe, description="How classifiers are fine-tuned.")
