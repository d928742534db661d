"""Toy views that a small network can tell apart in seconds: gratings whose wavelength, sharpness and level vary."""

import numpy as np


def textures(count: int, size: int = 32, seed: int = 0, coarse: bool = False) -> np.ndarray:
    """uint8 (count, size, size); `coarse` ones have wavelengths of 8 to 16 pixels, the others of 3 to 6."""
    random = np.random.default_rng(seed)
    wavelength = random.uniform(3, 6, count) * (2.5 if coarse else 1)
    angle, phase = random.uniform(-0.5, 0.5, count), random.uniform(0, 2 * np.pi, count)
    level, depth, sharpness = (
        random.uniform(60, 190, count),
        random.uniform(20, 60, count),
        random.uniform(0.5, 4, count),
    )
    rows, columns = np.mgrid[:size, :size]
    along = np.multiply.outer(np.cos(angle), columns) + np.multiply.outer(np.sin(angle), rows)
    waves = np.sin(2 * np.pi * along / wavelength[:, None, None] + phase[:, None, None])
    images = level[:, None, None] + depth[:, None, None] * np.tanh(sharpness[:, None, None] * waves)
    images += random.normal(0, 4, images.shape)
    return images.clip(0, 255).round().astype(np.uint8)
