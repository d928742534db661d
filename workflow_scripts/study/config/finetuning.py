"""Section `finetuning` of the config."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from workflow_scripts.study.config.base import (
    Distinct,
    Labels,
    Name,
    Number,
    Probability,
    Problem,
    Settings,
    Share,
    Whole,
    cross_check,
)


class FinetuningAugmentation(Settings):
    """Per-image augmentation of fine-tuning (paper, Sec. 4.3)."""

    preset: Literal["paper", "released"] = Field(
        "paper",
        description="paper: the paper's list, by the magnitudes below. released: the released code's transforms (docs/paper.md), "
        "drawn per image, and none of the magnitudes.",
    )
    markers: Probability = Field(
        0.3, description="Probability of each kind of calliper marker (circles, crosses, dashes, dotted line)."
    )
    rotation: Number = Field(10.0, ge=0, le=180, description="Largest rotation in degrees, either way.")
    flip: Probability = Field(0.5, description="Probability of a horizontal flip.")
    shift: Number = Field(
        0.05, ge=0, le=0.5, description="Largest shift as a share of the side, either way, in each direction."
    )
    outside: Literal["black", "reflected"] = Field(
        "black",
        description="What rotation and shift bring in from outside the view. black: pixels of 0, which test views do not have, "
        "so that batch norm's running statistics are of other views than it meets (see batch_norm); reflected: the view, "
        "mirrored at its edge.",
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
    freeze_backbone: bool = Field(
        False,
        description="Train the linear head alone: the backbone, its running statistics included, stays as it starts.",
    )
    shared_start: bool = Field(
        False,
        description="Whether the folds of a seed start from one draw of what is random in the initial weights (the released "
        "code); otherwise each fold draws its own.",
    )
    head: Literal["uniform", "kaiming"] = Field(
        "uniform",
        description="Initial weights of the head. uniform: torch's; kaiming: normal by the fan in, biases 0 (the released code).",
    )
    coupled: Number = Field(
        0.0,
        ge=0,
        description="Weight of the symmetric Kullback-Leibler divergence between the predictions for the two views of an organ "
        "side, which are then trained together (the released code's coupled loss, 1); 0: each view alone.",
    )
    batch_norm: Literal["running", "re_estimated"] = Field(
        "re_estimated",
        description="Mean and variance that batch norm predicts with. running: as they ran along with the augmented training "
        "views, whose black corners test views do not have; re_estimated: taken once more after training, of the training views "
        "as they are.",
    )
    augmentation: FinetuningAugmentation = Field(
        default_factory=FinetuningAugmentation, description="Per-image augmentation of fine-tuning (paper, Sec. 4.3)."
    )


class ProbeRecipe(Settings):
    """Logistic regression on the features of a frozen network, for table rows with `variant: probe`."""

    shares: Distinct[Annotated[float, Field(gt=0, lt=1)]] = Field(
        [0.1, 0.25, 0.5],
        description="Shares of the training patients that the label-efficiency figure shows beside all of them.",
    )
    draws: Whole = Field(5, ge=1, le=100, description="Random draws of the patients for each share, seed and fold.")


class OwnRate(Settings):
    """Learning rates of the rows with `variant: own_rate`, chosen for each fold among multiples of the recipe's."""

    factors: Distinct[Annotated[float, Field(gt=0)]] = Field(
        [1.0, 10.0, 100.0],
        min_length=2,
        description="Factors on both learning rates. Each is tried with the whole recipe; the fold takes the one with the "
        "largest AUROC on the patients held out.",
    )
    holdout: Share = Field(
        0.25, lt=1, description="Share of a fold's training patients that the trials test and do not learn."
    )


class TrainingSet(Settings):
    """Real and synthetic views that a row of table 5 is fine-tuned on."""

    real_percent: Whole = Field(
        100, ge=0, le=100, description="Percentage of a fold's training patients whose real views are learnt; 0: none."
    )
    synthetic_percent: Whole = Field(
        ge=1,
        le=10_000,
        description="Synthetic views that are learnt, in percent of the fold's real training views, class by class; drawn by "
        "seed and fold, those of a smaller percentage among those of a larger one.",
    )
    set: Literal["synthetic", "filtered"] = Field(
        "synthetic", description="synthetic: every generated view; filtered: those that the manifold filter keeps."
    )
    labels: Literal["asked", "relabelled", "shuffled"] = Field(
        "asked",
        description="Labels of the synthetic views. asked: the class that each was asked for; relabelled: the class that the "
        "same start gives it after fine-tuning on the fold's real training views; shuffled: those asked for in random order, "
        "a control from which nothing can be learnt.",
    )

    @cross_check
    def _a_control_is_synthetic(self) -> Iterator[Problem]:
        if self.labels == "shuffled" and self.real_percent:
            yield ("real_percent",), "beside real views shuffled labels are no control; set it to 0"


class Finetuning(Settings):
    """Fine-tuning on labelled views (paper, Sec. 4.3)."""

    labels: Labels = Field("flipped", description="Label set of every table row that names none.")
    recipe: FinetuningRecipe = Field(default_factory=FinetuningRecipe, description="How classifiers are fine-tuned.")
    probe: ProbeRecipe = Field(default_factory=ProbeRecipe, description="How the rows with `variant: probe` are made.")
    own_rate: OwnRate = Field(
        default_factory=OwnRate, description="How the rows with `variant: own_rate` choose their learning rates."
    )
    training_sets: dict[Name, TrainingSet] = Field(
        {}, description="Training sets with synthetic views, by the name that rows of table 5 give as `training_set`."
    )
