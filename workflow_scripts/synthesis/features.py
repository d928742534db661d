"""Embedding networks: what turns views into the features of the manifold.

`inception`: the FID network on images that are resized and normalised as clean-fid does (2048 features): its mode `clean`,
or `legacy_tensorflow`, the bilinear resizing inside TensorFlow's graph of 2015.
`timm`: a network of timm with its own input size and normalisation, from a file supplied manually.
`encoder`: a backbone pretrained by this workflow, seen as fine-tuning sees it (input (x/255 - 0.5) / 0.25).
Features are float32 and do not depend on the batch size but for the last bits of float32 sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import refuse_torchscript, verify_recorded_sha256
from workflow_scripts.networks.backbone import create_backbone, load_initialisation, normalise
from workflow_scripts.runtime.device import to_device, to_numpy

INCEPTION_SIDE = 299
# A network takes uint8 views (B, side, side) on the CPU and gives float32 features (B, D) on the CPU.
Network = Callable[[np.ndarray], np.ndarray]


def exact_float32() -> None:
    """Compute in full float32 with one algorithm, since neighbours are compared at the rims of balls; after
    `select_device`, which allows TF32 for training runs."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False


def load_network(
    kind: str,
    backbone: str,
    weights: Path,
    device: torch.device,
    resize: str = "clean",
    normalisation: Sequence[float] = (),
    side: int | None = None,
) -> Network:
    """The embedding network of a kind: `inception`, with `resize`; `encoder`, the timm network `backbone` with
    `normalisation`, for views of `side` pixels; `timm`, that network with its own."""
    if kind == "inception":
        return load_inception(weights, device, resize)
    if kind == "encoder":
        return load_encoder(backbone, weights, device, normalisation, side)
    return load_timm(backbone, weights, device)


def load_encoder(
    backbone: str,
    weights: Path,
    device: torch.device,
    normalisation: Sequence[float] = (),
    side: int | None = None,
) -> Network:
    """The timm network `backbone` without classifier, with the weights of a pretraining run's backbone.safetensors."""
    model = create_backbone(backbone, normalisation=normalisation, side=side)
    load_initialisation(model, "timm", _existing(weights), seed=0)
    model.to(device).eval()

    @torch.inference_mode()
    def network(views: np.ndarray) -> np.ndarray:
        return to_numpy(model(normalise(to_device(views, device))).float())

    return network


def load_timm(model_name: str, weights: Path, device: torch.device) -> Network:
    """A timm network with weights supplied manually, resized to and normalised as its own pretraining was."""
    import timm
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        model = timm.create_model(model_name, num_classes=0)
    except RuntimeError as error:
        raise UserError(f"embedding.network: {model_name!r} is not a timm model ({error})") from error
    verify_recorded_sha256(_existing(weights))
    wanted = model.state_dict()
    try:
        given = load_file(_existing(weights))
        model.load_state_dict({key: value for key, value in given.items() if key in wanted}, strict=True)
    except (RuntimeError, SafetensorError) as error:
        raise UserError(f"{weights} does not hold the weights of {model_name}: {_short(error)}") from error
    model.to(device).eval()
    expected = timm.data.resolve_model_data_config(model)
    side = expected["input_size"][-1]
    mean, std = (torch.tensor(expected[key], device=device)[:, None, None] for key in ("mean", "std"))

    @torch.inference_mode()
    def network(views: np.ndarray) -> np.ndarray:
        images = to_device(views, device).float().div(255)[:, None]
        images = torch.nn.functional.interpolate(images, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
        return to_numpy(model((images.expand(-1, 3, -1, -1) - mean) / std).float())

    return network


def resize_like_tensorflow(images: torch.Tensor, side: int) -> torch.Tensor:
    """float (B, C, side, side): bilinear as TensorFlow 1 resizes (B, C, H, H), corners and not centres of pixels aligned.

    Neither half-pixel offset nor antialiasing, so that neither `interpolate` of torch gives it.
    """
    for dimension in (-2, -1):
        size = images.shape[dimension]
        place = torch.arange(side, device=images.device) * (size / side)
        low = place.long()
        high = (low + 1).clamp_max(size - 1)
        share = (place - low).view((-1, 1) if dimension == -2 else (-1,))
        below, above = images.index_select(dimension, low), images.index_select(dimension, high)
        images = below + (above - below) * share
    return images


def load_inception(weights: Path, device: torch.device, resize: str = "clean") -> Network:
    """The FID network with weights from a local state dictionary; nothing is downloaded, and nothing in the file is run."""
    from cleanfid.resize import build_resizer

    from workflow_scripts.synthesis.inception import fid_inception

    verify_recorded_sha256(_existing(weights))
    refuse_torchscript(weights)
    clean = build_resizer("clean")
    model = fid_inception()
    try:
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True), strict=True)
    except Exception as error:  # a damaged pickle fails in any way; torch's own advice would be to execute it
        raise UserError(
            f"{weights} does not hold the weights of the FID Inception network alone, as torch-fidelity and pytorch-fid "
            f"publish them ({type(error).__name__}); nothing of it was executed. Fetch it again, see embedding.inception in "
            "config.yaml"
        ) from error
    model.fc = torch.nn.Identity()
    model.to(device).eval()

    @torch.inference_mode()
    def network(views: np.ndarray) -> np.ndarray:
        if resize == "legacy_tensorflow":
            images = resize_like_tensorflow(to_device(views, device).float()[:, None], INCEPTION_SIDE).expand(
                -1, 3, -1, -1
            )
        else:
            resized = np.stack([clean(np.repeat(view[:, :, None], 3, axis=2)) for view in views])
            images = to_device(resized, device).permute(0, 3, 1, 2)
        return to_numpy(model((images - 128) / 128).float())

    return network


def embed(views: np.ndarray, network: Network, batch_size: int, first: int = 0) -> Iterator[np.ndarray]:
    """Features of uint8 views (N, side, side), batch by batch, from view `first` on."""
    for start in range(first, len(views), batch_size):
        features = network(np.array(views[start : start + batch_size]))
        bad = ~np.isfinite(features).all(axis=1)
        if bad.any():
            raise UserError(
                f"the network gives NaN or infinity for view {start + int(bad.argmax())}: its weights are damaged"
            )
        yield features


def _existing(weights: Path) -> Path:
    if not weights.is_file():
        raise UserError(
            f"{weights} (--weights) does not exist; config.yaml's embedding section says which network is used and"
            " where it comes from"
        )
    return weights


def _short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:300]
