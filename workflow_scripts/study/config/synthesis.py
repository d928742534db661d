"""Section `synthesis` of the config."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from workflow_scripts.study.config.base import FilePath, Number, Problem, Settings, Size, Whole, cross_check


class SynthesisRecipe(Settings):
    """How the synthetic views are sampled."""

    seed: Whole = Field(0, ge=0, description="Seed; image j is a function of (weights, seed, j).")
    sampler: Literal["ancestral", "ddim", "dpmsolver++", "sde_dpm_solver"] = Field(
        "ancestral",
        description="ancestral: learned variance; ddim: deterministic (eta 0); dpmsolver++: deterministic, "
        "second order, for few steps; sde_dpm_solver: the same with fresh noise in every step.",
    )
    steps: Whole = Field(
        250, ge=2, description="Respaced sampling steps; ddim needs a number that one whole stride gives."
    )
    guidance: Number = Field(
        1.0,
        ge=0,
        description="Classifier-free guidance of a class-conditional model: 1 none, above 1 towards what sets "
        "the class apart (twice the work).",
    )
    batch_size: Size = Field(64, ge=1, description="Images sampled together.")


class Synthesis(Settings):
    """The synthetic views."""

    source: Literal["generator", "folder"] = Field(
        "generator",
        description="generator: sampled by the diffusion model. folder: images that were made elsewhere (docs/published.md); "
        "no generator is trained then, no privacy audit is possible and no set is released.",
    )
    folder: FilePath = Field("", description="Folder of images with `source: folder`.")
    images: Whole = Field(20000, ge=1, le=10_000_000, description="Number of synthetic views.")
    shards: Whole = Field(20, ge=1, le=10_000, description="Number of jobs that share the sampling.")
    png: bool = Field(
        False, description="Whether the synthetic views are also written as PNG files (`synthesis/png/`)."
    )
    recipe: SynthesisRecipe = Field(default_factory=SynthesisRecipe, description="How the views are sampled.")

    @cross_check
    def _folder_is_named(self) -> Iterator[Problem]:
        if (self.source == "folder") != bool(self.folder):
            yield ("folder",), "`source: folder` and this key belong together: set both or neither"

    @cross_check
    def _no_empty_shard(self) -> Iterator[Problem]:
        if self.shards > self.images:
            yield ("shards",), f"{self.shards} shards of {self.images} images"
