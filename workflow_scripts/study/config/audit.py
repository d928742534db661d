"""Section `audit` of the config."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from workflow_scripts.study.config.base import (
    Distinct,
    FilePath,
    Name,
    Number,
    Probability,
    Problem,
    Settings,
    Whole,
    cross_check,
)
from workflow_scripts.study.config.finetuning import FinetuningAugmentation, FinetuningRecipe


class VoteRule(Settings):
    """Which labels are suspicious (paper, Sec. 3)."""

    method: Literal["votes", "mean_loss", "aum", "oof_loss", "confident_learning"] = Field(
        "votes",
        description="votes (the paper): shares of runs that flag. The others compare one number with the "
        "threshold: mean training loss, area under the margin, out-of-fold loss, out-of-fold "
        "self-confidence.",
    )
    threshold: Number = Field(
        1.0,
        gt=0,
        description="A loss (nats) above this speaks against the label, whose probability is then below "
        "exp(-threshold).",
    )
    exceedances: Whole = Field(
        3,
        ge=1,
        description="Votes only; a run flags a view whose loss exceeded the threshold in at least this many epochs.",
    )
    share: Number = Field(
        1.0,
        le=1,
        gt=0,
        description="Votes only; a view is suspicious when at least this share of its evaluations flag it (the "
        "paper, 16 of 16).",
    )
    unit: Literal["view", "organ_side"] = Field(
        "view",
        description="view (the paper): each view is judged alone. organ_side: the views of one side of a patient, "
        "which inherited one label, are judged together.",
    )


class AuditAugmentation(FinetuningAugmentation):
    """Per-image augmentation of the audit's runs."""

    markers: Probability = Field(0.0, description="Probability of each kind of calliper marker.")


class AuditRecipe(FinetuningRecipe):
    """How the audit trains: the keys of fine-tuning, with defaults of its own."""

    sampler: Literal["weighted", "shuffle"] = Field(
        "shuffle",
        description="shuffle: one loss per view and epoch; weighted: as fine-tuning draws, with its class bias.",
    )
    batch_norm: Literal["running", "re_estimated"] = Field(
        "running",
        description="As for fine-tuning. No loss that is recorded while a network learns depends on it; the out-of-fold "
        "probabilities do.",
    )
    augmentation: AuditAugmentation = Field(
        default_factory=AuditAugmentation,
        description="Per-image augmentation of the audit's runs; no markers unless asked for.",
    )


class Review(Settings):
    """The page on which a clinician reviews doubtful views."""

    mode: Literal["blind", "open"] = Field(
        "blind",
        description="blind: label, votes and losses are shown after the decision, views in random order. open: "
        "shown at once, the most voted first.",
    )
    controls: Number = Field(1.0, ge=0, description="Unsuspicious views mixed in per suspicious one.")


class Audit(Settings):
    """The noisy-label audit (paper, Sec. 3)."""

    initialisations: Distinct[Name] = Field(
        ["imagenet", "uscl"],
        min_length=1,
        description="Networks that the audit starts from; one run per initialisation, seed and fold.",
    )
    recipe: AuditRecipe = Field(default_factory=AuditRecipe, description="How the audit trains.")
    record: Literal["training", "evaluation"] = Field(
        "training",
        description="Which losses are recorded. training (the paper): those of the augmented views in the "
        "batches that are trained on. evaluation: those of the clean views after each epoch.",
    )
    vote: VoteRule = Field(default_factory=VoteRule, description="Which labels are suspicious (paper, Sec. 3).")
    review: Review = Field(
        default_factory=Review, description="The page on which a clinician reads doubtful views, review.html."
    )
    decisions: FilePath = Field(
        "",
        description="CSV of a clinician's decisions (view_id, decision = keep | flip | discard | unsure; the "
        "review page writes it) for the label set `reviewed`.",
    )

    @cross_check
    def _runs_can_flag(self) -> Iterator[Problem]:
        if not self.can_flag(self.vote.exceedances):
            text = f"a run of {self.recipe.epochs} epochs (audit.recipe.epochs) can never hold {self.vote.exceedances}"
            yield ("vote", "exceedances"), text

    def can_flag(self, exceedances: int) -> bool:
        """Whether a run has as many epochs as the rule asks for exceedances."""
        return self.vote.method != "votes" or exceedances <= self.recipe.epochs
