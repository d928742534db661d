"""Section `initialisations` of the config."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from workflow_scripts.study.config.base import (
    FilePath,
    Network,
    Normalisation,
    Problem,
    Settings,
    Sha256,
    Text,
    Url,
    cross_check,
)


class Initialisation(Settings):
    """Weights to start from."""

    layout: Literal["scratch", "scratch_fan_in", "torchvision", "uscl", "timm", "original"] = Field(
        description="Key layout of the weights: torchvision ResNet, USCL's Sequential, timm's own; original: those of the "
        "method's authors (MAE, BEiT, DINOv2, DeiT, Swin), which timm translates. scratch and "
        "scratch_fan_in need no file (Kaiming-normal convolutions by their fan out, or by their fan in as the released code "
        "draws them)."
    )
    backbone: Network | None = Field(
        None, description="timm network that the weights are of; model.backbone when left out."
    )
    normalisation: Normalisation | None = Field(
        None,
        description="Mean and standard deviation by which inputs between 0 and 1 were normalised when the weights were trained "
        "(two numbers, or three means and three deviations); when left out 0.5 and 0.25, the paper's. ImageNet's are "
        "[0.485, 0.456, 0.406, 0.229, 0.224, 0.225].",
    )
    file: FilePath | None = Field(None, description="Local file of the weights; fetched from url when absent.")
    url: Url = Field(
        "", description="Where the head node fetches the file. Empty means that the file is supplied manually."
    )
    sha256: Sha256 = Field(
        "", description="Expected SHA-256. Empty means unknown; then it is recorded beside the file at the first fetch."
    )
    title: Text | None = Field(None, description="Default name of its table rows; the key itself when left out.")
    samples: Text = Field("\u2013", description="Number of images it was trained on, as printed in Table 2.")

    @cross_check
    def _weights_have_a_file(self) -> Iterator[Problem]:
        if not self.layout.startswith("scratch") and self.file is None:
            yield ("file",), f"this key is required with layout: {self.layout}"
