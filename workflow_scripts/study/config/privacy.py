"""Section `privacy` of the config: what is measured beyond the copy audit, at a cost of its own."""

from pydantic import Field

from workflow_scripts.study.config.base import Number, Settings, Size, Whole


class CanaryRecipe(Settings):
    """How the canaries are drawn and looked for."""

    images: Whole = Field(
        2048,
        ge=8,
        le=10_000_000,
        description="Images drawn from each snapshot; a generator that repeats its N training views and nothing else "
        "returns the share 1 - (1 - 1/N)^images of the canaries, so draw at least three times as many.",
    )
    steps: Whole = Field(50, ge=2, description="Ancestral sampling steps of these images.")
    batch_size: Size = Field(64, ge=1, description="Images sampled together.")
    false_alarms: Number = Field(
        0.01, gt=0, le=0.5, description="Share of codes that were never planted that may count as returned."
    )
    seed: Whole = Field(
        0, ge=0, description="Key of the codes, their places, the marked patients, and the noise of the images."
    )


class Privacy(Settings):
    """Attacks on the generator that need training runs of their own."""

    canaries: Whole = Field(
        0,
        ge=0,
        description="Patients of whom one training view is marked with a code of its own in a second training run of the "
        "generator, which is never released; the audit counts the codes that come back (docs/privacy.md). 0: none.",
    )
    canary: CanaryRecipe = Field(default_factory=CanaryRecipe, description="How the canaries are drawn and looked for.")
