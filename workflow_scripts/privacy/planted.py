"""Planted copies: altered training views that the copy audit must find, and the share of each kind that it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from workflow_scripts.privacy.copies import Detectors, Views

COPIES = 64


def planted_rows(training: int, seed: int) -> np.ndarray:
    """Which of so many training views are copied: row numbers (min(COPIES, training),)."""
    return np.sort(np.random.default_rng(seed).permutation(training)[:COPIES])


def planted_copies(views: np.ndarray, shift: int, seed: int) -> dict[str, np.ndarray]:
    """Altered copies of views, uint8 (N, size, size), by the name of the alteration: what the audit must find."""
    from scipy.ndimage import gaussian_filter

    generator = np.random.default_rng(seed)
    values = views.astype(np.float32)

    def stored(images: np.ndarray) -> np.ndarray:
        return np.clip(np.rint(images), 0, 255).astype(np.uint8)

    from scipy.ndimage import map_coordinates

    size = views.shape[1]
    padded = np.pad(views, ((0, 0), (shift, shift), (shift, shift)), mode="edge")
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2

    def resampled(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        places = np.stack([y, x]) + (size - 1) / 2
        return stored(np.stack([map_coordinates(value, places, order=1, mode="nearest") for value in values]))

    turn, zoom, fine = np.deg2rad(8), 0.8, size / 64
    corner = (1 - zoom) * size / 2
    warp = gaussian_filter(generator.standard_normal((2, size, size)), 6 * fine, axes=(1, 2))
    warp *= 1.5 * fine / np.abs(warp).max()
    speckle = gaussian_filter(generator.standard_normal(values.shape), 0.7 * fine, axes=(1, 2))
    return {
        "exact": np.array(views),
        "mirrored": views[:, :, ::-1],
        "noise 5 %": stored(values + generator.normal(0, 0.05 * 255, values.shape)),
        "noise 15 %": stored(values + generator.normal(0, 0.15 * 255, values.shape)),
        "shifted": padded[:, shift // 2 : shift // 2 + size, 2 * shift : 2 * shift + size],
        "gamma 0.7": stored(255 * (values / 255) ** 0.7),
        "blurred": stored(gaussian_filter(values, sigma=size / 128, axes=(1, 2))),
        "elastic": resampled(rows + warp[0], columns + warp[1]),
        "new speckle": stored(
            gaussian_filter(values, sigma=1.2 * fine, axes=(1, 2)) * (1 + 0.25 * speckle / speckle.std())
        ),
        "rotated 8°": resampled(
            rows * np.cos(turn) - columns * np.sin(turn), rows * np.sin(turn) + columns * np.cos(turn)
        ),
        "cropped to 80 %": resampled(rows * zoom, columns * zoom),
        "corner of 80 %": resampled(rows * zoom - corner, columns * zoom - corner),
    }


def power(
    copies: Mapping[str, np.ndarray], features: Mapping[str, np.ndarray], detectors: Detectors, threshold: float
) -> list[dict[str, Any]]:
    """Shares of planted copies that are flagged, one row per kind: kind, and what `Detectors.shares` counts.

    `copies` (`planted_copies`) of each kind have `features`, by network (kinds, N, crops, D).
    """
    rows = []
    for number, (kind, pixels) in enumerate(copies.items()):
        views = Views(pixels, {name: values[number] for name, values in features.items()})
        rows.append({"kind": kind, **detectors.shares(detectors.scores(views) > threshold)})
    return rows
