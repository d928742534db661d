"""Section `classifier` of the config."""

from typing import Literal

from pydantic import Field

from workflow_scripts.study.config.base import Labels, NameOrNone, Settings


class PackedClassifier(Settings):
    """The classifier that `snakemake classifier` packs for use on new frames."""

    init: NameOrNone = Field(
        "", description="Initialisation or pretraining run whose fine-tuned networks are packed; empty for none."
    )
    labels: Labels | None = Field(None, description="Label set that they learnt; finetuning.labels when left out.")
    truth: Literal["original", "policy"] = Field(
        "original",
        description="Labels on which the probabilities are calibrated; those of a label policy flatter the "
        "networks that changed them.",
    )
