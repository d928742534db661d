"""The README of a model folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workflow_scripts.core.text import plain


def model_card(origin: str, facts: Mapping[str, Any], settings: Mapping[str, Any], classes: Sequence[str] = ()) -> str:
    """Markdown for a trained model, conditioned on `classes` if there are any.

    `origin` (for example PHANTOM) heads it when the views are not from patients.
    """
    warning = (
        f"> **{origin}**: trained on views of this origin, not on patients. Not for clinical use.\n\n" if origin else ""
    )
    title = "Diffusion model of ultrasound views" + (f" ({origin})" if origin else "")
    kind = "A class-conditional" if classes else "An unconditional"
    labels = ""
    if classes:
        numbered = ", ".join(f"{number} {plain(name)}" for number, name in enumerate(classes))
        labels = (
            f" Its network takes class labels: {numbered}, {len(classes)} none; the pipeline itself passes no label."
        )
    lines = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    recipe = "\n".join(f"| {name} | {value} |" for name, value in settings.items())
    return f"""---
library_name: diffusers
pipeline_tag: unconditional-image-generation
---
# {title}

{warning}{kind} DDPM with learned variance, for grey views. The weights are an exponential moving average over
the training run. `DDPMPipeline.from_pretrained` loads this folder.{labels}

| training | |
|---|---|
{lines}

| setting | |
|---|---|
{recipe}

Models of this kind can store views that they were trained on, and the weights may reveal who was among the training
patients. Treat the weights as patient data: an audit of generated images says nothing about the weights.
"""


def import_card(source: str) -> str:
    """Markdown for a model that was trained elsewhere and converted."""
    return f"""---
library_name: diffusers
pipeline_tag: unconditional-image-generation
---
# Diffusion model of grey images, imported

Converted from the guided-diffusion state dict {plain(source)}. What it was trained on is not known here; the weights may
store training images.
"""
