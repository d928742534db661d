"""Section `embedding` of the config."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from workflow_scripts.study.config.base import (
    FilePath,
    Problem,
    Settings,
    Sha256,
    Size,
    Url,
    cross_check,
)


class Inception(Settings):
    """The FID Inception network."""

    file: FilePath = Field(
        "weights/weights-inception-2015-12-05-6726825d.pth",
        description="Local state dictionary of the FID Inception network, as torch-fidelity and pytorch-fid publish it; "
        "fetched from url when absent. TorchScript (inception-2015-12-05.pt) is a program and is refused.",
    )
    url: Url = Field(
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
        description="Where the head node fetches the file.",
    )
    sha256: Sha256 = Field(
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        description="Expected SHA-256, by default the published file's. Empty means unknown; then it is recorded beside "
        "the file at the first fetch.",
    )
    resize: Literal["clean", "legacy_tensorflow"] = Field(
        "clean",
        description="How views become 299 x 299. clean: clean-fid's, bicubic with antialiasing. legacy_tensorflow: the bilinear "
        "one inside TensorFlow's graph, with which the released code measured; numbers of the two do not compare.",
    )


class TimmNetwork(Settings):
    """A timm network."""

    file: FilePath = Field(
        "",
        description="Local safetensors file of the timm network, supplied manually; it may hold a classifier, "
        "which is not used.",
    )


class Embedding(Settings):
    """The network whose features the filter and the metrics use."""

    network: str = Field(
        "inception",
        pattern="^(inception|encoder:[A-Za-z][A-Za-z0-9_]*|timm:[A-Za-z0-9_.]+)$",
        description="inception (FID features), encoder:<pretraining run>, a run on "
        "real sets only, or timm:<model>, with embedding.timm.file.",
    )
    inception: Inception = Field(default_factory=Inception, description="The FID Inception network.")
    timm: TimmNetwork = Field(default_factory=TimmNetwork, description="The timm network of `network: timm:<model>`.")
    published_activations: FilePath = Field(
        "",
        description="Inception features of real views that others published, an .npz file with the array arr_0 (the authors' "
        "ref_acts.npz): further rows of the generation table score the synthetic sets against them. With network: inception "
        "and inception.resize: legacy_tensorflow, which made them.",
    )
    batch_size: Size = Field(64, ge=1, description="Views per forward pass; features do not depend on it.")

    @cross_check
    def _published_features_are_of_this_network(self) -> Iterator[Problem]:
        same = self.network == "inception" and self.inception.resize == "legacy_tensorflow"
        if self.published_activations and not same:
            text = (
                "features of two networks do not compare: set embedding.network: inception and "
                "embedding.inception.resize: legacy_tensorflow, or empty this key"
            )
            yield ("published_activations",), text

    @cross_check
    def _timm_has_weights(self) -> Iterator[Problem]:
        if self.network.startswith("timm:") and not self.timm.file:
            text = f"{self.network!r} needs its weights: name a safetensors file in embedding.timm.file"
            yield ("network",), text
