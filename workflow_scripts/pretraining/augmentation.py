"""The two random views of an image in contrastive pretraining (paper, Sec. 4.1), drawn per image in batches.

The paper names no magnitudes. The released code has two different recipes, one for each view, and draws one geometric
transform for the whole batch; here every image has parameters of its own, from uniforms that depend on (seed, view, step,
global index) alone, with either recipe.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from workflow_scripts.core.randomness import uniforms
from workflow_scripts.networks.backbone import to_unit
from workflow_scripts.networks.geometry import affine_matrices, warp
from workflow_scripts.networks.markers import mask_markers
from workflow_scripts.runtime.device import rows_where, to_device
from workflow_scripts.study.config.pretraining import PretrainingAugmentation

# What one view of one image draws, in this order.
DRAWS = (
    "area", "ratio", "left", "top", "rotation", "flip", "brightness", "contrast", "blur", "sigma",
    "side", "across", "down", "upside", "jitter", "sharpness", "markers",
)  # fmt: skip
# Standard deviations of the blur in pixels: light, since the texture is what the network must learn.
SIGMAS = (0.3, 1.2)
BLUR_RADIUS = 3
# Images at a time on a CPU, so that intermediate results stay in its cache.
CPU_BLOCK = 8


NOTHING = PretrainingAugmentation(
    views="symmetric", crop_scale=1, crop_ratio=1, flip=0, flip_vertical=0, rotation=0, jitter=0, brightness=0, contrast=0,
    blur=0, sharpness=0, black_square=0, black_square_smallest=0, mask_markers=0,
)  # fmt: skip


def _only(**magnitudes: float) -> PretrainingAugmentation:
    return NOTHING.model_copy(update=magnitudes)


# The released code's two pipelines: crops and flips, against masked markers, a square of 96 of 256 pixels on every view,
# any rotation to 90 degrees, colour jitter (of grey views: brightness and contrast) and sharpening.
RELEASED = (
    _only(crop_scale=0.8, crop_ratio=1.25, flip=0.5, flip_vertical=0.5),
    _only(
        flip=0.5, rotation=90, jitter=0.8, brightness=0.8, contrast=0.8, sharpness=0.3, black_square=96 / 256,
        black_square_smallest=96 / 256, mask_markers=1,
    ),
)  # fmt: skip


def view_recipes(settings: PretrainingAugmentation) -> tuple[PretrainingAugmentation, PretrainingAugmentation]:
    """The recipes of the first and of the second view, from the config's `augmentation`.

    `views: symmetric` draws both by the magnitudes; `released` has two recipes of its own and none of the magnitudes.
    """
    return RELEASED if settings.views == "released" else (settings, settings)


def augment(
    images: Tensor, settings: PretrainingAugmentation, seed: int, stream: str, step: int, indices: np.ndarray
) -> Tensor:
    """One random view of each image: uint8 (N, H, W) with H = W -> float32 (N, 1, H, W) in [0, 1], on the same device.

    `stream` names the view (`view0`, `view1`), `indices` (N,) are the images' global indices. An image's view depends
    on these, on `seed` and on `step`, not on the rest of the batch.
    """
    return augment_by(images, settings, uniforms(seed, stream, step, indices, len(DRAWS)))


def augment_by(images: Tensor, settings: PretrainingAugmentation, numbers: np.ndarray) -> Tensor:
    """The views of images that `numbers` (N, len(DRAWS)) in [0, 1) choose; see `augment`."""
    if images.device.type == "cpu" and len(images) > CPU_BLOCK:
        parts = zip(images.split(CPU_BLOCK), np.split(numbers, range(CPU_BLOCK, len(numbers), CPU_BLOCK)), strict=True)
        return torch.cat([augment_by(part, settings, rows) for part, rows in parts])
    draw = dict(zip(DRAWS, to_device(numbers, images.device).unbind(1), strict=True))

    def drawn(name: str, probability: float) -> Tensor:
        """The images that a transform is applied to, chosen on the CPU: choosing them on a GPU would wait for it."""
        return rows_where(numbers[:, DRAWS.index(name)] < probability, images.device)

    views = to_unit(images)
    if len(chosen := drawn("markers", settings.mask_markers)):
        views[chosen] = mask_markers(views[chosen])
    views = warp(views, crop_matrices(draw, settings))
    jittered = (draw["jitter"] < settings.jitter).to(views.dtype)
    brightness = jittered * _between(draw["brightness"], settings.brightness)
    contrast = jittered * _between(draw["contrast"], settings.contrast)
    views = jitter(views, brightness, contrast)
    if len(chosen := drawn("blur", settings.blur)):
        low, high = SIGMAS
        views[chosen] = gaussian_blur(views[chosen], low + (high - low) * draw["sigma"][chosen])
    if len(chosen := drawn("sharpness", settings.sharpness)):
        views[chosen] = sharpen(views[chosen])
    smallest, largest = settings.black_square_smallest, settings.black_square
    return black_out(views, smallest + (largest - smallest) * draw["side"], draw["across"], draw["down"])


def augment_pairs(
    images: Tensor,
    recipes: tuple[PretrainingAugmentation, PretrainingAugmentation],
    numbers: Sequence[np.ndarray],
    partners: Tensor | None = None,
) -> Tensor:
    """Both views of each image: uint8 (N, H, W) -> float32 (2, N, 1, H, W) in [0, 1]; the second is of `partners`, if given.

    `numbers` as from `pair_draws`.
    """
    sources = (images, images if partners is None else partners)
    views = [augment_by(source, recipe, part) for source, recipe, part in zip(sources, recipes, numbers, strict=True)]
    return torch.stack(views)


def pair_draws(seed: int, step: int, indices: np.ndarray) -> list[np.ndarray]:
    """What both views of the images of a step draw, float32 (N, len(DRAWS)) each; `indices` (N,) are global."""
    return [uniforms(seed, f"view{i}", step, indices, len(DRAWS)) for i in range(2)]


def crop_matrices(draw: dict[str, Tensor], settings: PretrainingAugmentation) -> Tensor:
    """Random resized crop, rotation about the crop's centre and flips as one map (N, 2, 3) for `warp`.

    `draw` holds uniforms (N,) in [0, 1): the crop's share of the area is uniform in [crop_scale, 1], its aspect ratio
    log-uniform in [1 / crop_ratio, crop_ratio] (sides beyond the image are cut to it), its place uniform in the image.
    """
    area = settings.crop_scale + (1 - settings.crop_scale) * draw["area"]
    stretch = torch.exp(_between(draw["ratio"], 0.5 * math.log(settings.crop_ratio)))
    width = (area.sqrt() * stretch).clamp(max=1)
    height = (area.sqrt() / stretch).clamp(max=1)
    return affine_matrices(
        angle=_between(draw["rotation"], settings.rotation),
        scale_x=width,
        scale_y=torch.where(draw["upside"] < settings.flip_vertical, -height, height),
        shift_x=(1 - width) * (2 * draw["left"] - 1),
        shift_y=(1 - height) * (2 * draw["top"] - 1),
        flip=draw["flip"] < settings.flip,
    )


def jitter(images: Tensor, brightness: Tensor, contrast: Tensor) -> Tensor:
    """Change brightness, then contrast about each image's mean, by shares (N,) > -1; images (N, 1, H, W) in [0, 1]."""
    images = (images * (1 + brightness)[:, None, None, None]).clamp(0, 1)
    means = images.mean(dim=(1, 2, 3), keepdim=True)
    return (means + (images - means) * (1 + contrast)[:, None, None, None]).clamp(0, 1)


def gaussian_blur(images: Tensor, sigmas: Tensor) -> Tensor:
    """Blur each image (N, 1, H, W) with its own standard deviation (N,) in pixels, edges replicated.

    Kernels end at `BLUR_RADIUS` pixels. Rows and columns are weighted sums of shifted images, for all images at once.
    """
    offsets = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, device=images.device)
    weights = torch.exp(-0.5 * (offsets / sigmas[:, None]) ** 2)
    weights = (weights / weights.sum(dim=1, keepdim=True))[:, :, None, None, None]
    height, width = images.shape[-2:]
    for dimension, size in ((2, height), (3, width)):
        pad = (0, 0, BLUR_RADIUS, BLUR_RADIUS) if dimension == 2 else (BLUR_RADIUS, BLUR_RADIUS, 0, 0)
        padded = F.pad(images, pad, mode="replicate")
        images = sum(
            (weights[:, i] * padded.narrow(dimension, i, size) for i in range(len(offsets))), torch.zeros_like(images)
        )
    return images


def sharpen(images: Tensor) -> Tensor:
    """Add to each image (N, 1, H, W) in [0, 1] what a light smoothing takes from it (torchvision's sharpness 2)."""
    kernel = torch.ones(1, 1, 3, 3, device=images.device, dtype=images.dtype)
    kernel[..., 1, 1] = 5
    sharp = images.clone()
    inner = images[:, :, 1:-1, 1:-1]
    sharp[:, :, 1:-1, 1:-1] = (2 * inner - F.conv2d(images, kernel / 13)).clamp(0, 1)
    return sharp


def black_out(images: Tensor, sides: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Black out one square per image (N, 1, H, W): `sides` (N,) in shares of the side, its place by (N,) in [0, 1].

    0 puts it at the left (top) edge, 1 at the right (bottom) edge; the square is always inside. A pixel belongs to it if its
    centre does.
    """
    size = images.shape[-1]
    centres = (torch.arange(size, device=images.device) + 0.5) / size

    def covered(place: Tensor) -> Tensor:
        start = (1 - sides) * place
        return (centres >= start[:, None]) & (centres < (start + sides)[:, None])

    square = covered(down)[:, :, None] & covered(across)[:, None, :]
    return images.masked_fill(square[:, None], 0.0)


def _between(uniform: Tensor, largest: float) -> Tensor:
    """[0, 1) -> [-largest, largest)."""
    return largest * (2 * uniform - 1)
