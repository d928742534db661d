"""Section `manifold` of the config: filter, metrics and privacy audit."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from workflow_scripts.study.config.base import Number, Positive, Settings, Size, Whole


def _number_or_word(value: Any) -> str:
    return "word" if isinstance(value, str) else "number"


NumberOrAuto = Annotated[
    Annotated[Positive, Tag("number")] | Annotated[Literal["auto"], Tag("word")], Discriminator(_number_or_word)
]


class ManifoldRecipe(Settings):
    """The filter and the metrics of the synthetic views."""

    filter_k: NumberOrAuto = Field(
        50,
        description="Neighbour that sets the filter's radii (Algorithm 1); auto: 50 of the paper's 880 real "
        "views, in proportion.",
    )
    filter_rule: Literal["neighbours", "calibrated", "none"] = Field(
        "neighbours",
        description="neighbours: Algorithm 1; calibrated: its radii times the factor that lets 95 % of the "
        "held-out patients' views pass; none: the images of `synthesis.folder` are the set `filtered` as they are, and "
        "there is no set `synthetic`.",
    )
    metric_k: Whole = Field(3, ge=1, description="Neighbour that sets the radii of precision and recall (Eq. 5-6).")
    metric_batches: Size = Field(3, ge=1, description="Disjoint reference batches of real views.")
    metric_batch_size: Size = Field(64, ge=2, description="Real views in each reference batch.")
    seed: Whole = Field(0, ge=0, description="Seed of the reference batches and subsamples.")


class PrivacyRecipe(Settings):
    """The privacy audit."""

    false_alarms: Number = Field(
        0.01, le=0.5, gt=0, description="Share of held-out patients' views that the copy threshold may flag."
    )
    shift: Whole = Field(
        8, ge=0, description="Largest shift in pixels (either way) when two views are aligned for comparison."
    )
    encoder_steps: Whole = Field(
        1500, ge=1, description="Steps of 64 real views that train each of the audit's two networks."
    )
    noises: Size = Field(
        8,
        ge=1,
        description="Noises at each of eight levels from which the generator denoises every real view: whether "
        "its weights reveal whom it was trained on.",
    )
    seed: Whole = Field(
        0,
        ge=0,
        description="Seed of the audit's networks, the planted copies, the noises and the bootstrap over patients.",
    )


class Manifold(Settings):
    """The manifold filter, its metrics and the privacy audit."""

    recipe: ManifoldRecipe = Field(default_factory=ManifoldRecipe, description="The filter and the metrics.")
    privacy: PrivacyRecipe = Field(default_factory=PrivacyRecipe, description="The privacy audit.")
