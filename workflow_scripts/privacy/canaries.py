"""Canaries: keyed marks on training views, and how surely a generator's images return them (Dombrowski and Kainz 2025).

A mark is a square of CODE x CODE cells that carries a secret: CODE x CODE / 2 random signs, each a light cell beside a dark
one or the reverse. Smooth tissue gives such a pair no difference, and no image has a given code by chance. A code's score is
the largest cosine between it and the pairs of cells at its place, over all images, mirrored too, and shifts of a cell. What
the score means is told by REFERENCES codes that were never planted, scored at the same place of the same images: the chance
that one of them scores as high is exact, whatever the images look like. Exposure (Carlini et al. 2019) is this chance in bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.randomness import philox

# Cells of a mark along a side; views of GRID pixels and more have GRID cells or a little more, smaller ones a cell per pixel.
CODE, GRID = 12, 64
# Codes that no view carries; a returned code scores above nearly all of them.
REFERENCES = 1999
# Cells by which a returned mark may be out of place.
SHIFT = 1
# Windows whose pairs of cells differ less than this, in grey levels, carry nothing.
LEAST_CONTRAST = 2.0
PLACES, CODES, PATIENTS = "canary places", "canary codes", "canary patients"


@dataclass(frozen=True)
class Canaries:
    """Codes, int8 (n, CODE, CODE / 2) of signs, and the cells (n, 2), row and column, where their marks begin."""

    codes: np.ndarray
    places: np.ndarray


def cell_of(size: int) -> int:
    """Pixels along a side of a cell in views of `size` pixels; UserError where a mark would fill the view."""
    if size < 2 * CODE:
        raise UserError(
            f"a canary's mark needs views of at least {2 * CODE} pixels, these have {size}; raise data.size"
        )
    return max(1, size // GRID)


def draw_codes(seed: int, first: int, count: int) -> np.ndarray:
    """Codes number `first` to `first + count` - 1, int8 (count, CODE, CODE / 2)."""
    drawn = [philox(seed, CODES, 0, number).integers(0, 2, (CODE, CODE // 2)) for number in range(first, first + count)]
    return (2 * np.stack(drawn) - 1).astype(np.int8)


def draw_canaries(seed: int, count: int, size: int) -> Canaries:
    """`count` canaries for views of `size` pixels: a function of the seed, their numbers and the size."""
    room = size // cell_of(size) - CODE - 2 * SHIFT
    places = [SHIFT + philox(seed, PLACES, 0, number).integers(0, room + 1, 2) for number in range(count)]
    return Canaries(draw_codes(seed, 0, count), np.stack(places))


def marked(view: np.ndarray, code: np.ndarray, place: np.ndarray) -> np.ndarray:
    """A view, uint8 (size, size), with a code's mark at a place: there half the view, half black and white cells."""
    cell = cell_of(len(view))
    light = np.stack([code > 0, code < 0], axis=-1).reshape(CODE, CODE).astype(np.uint8)
    rows, columns = (slice(cell * start, cell * (start + CODE)) for start in place)
    result = view.copy()
    result[rows, columns] = view[rows, columns] // 2 + 127 * np.kron(light, np.ones((cell, cell), np.uint8))
    return result


def in_cells(images: np.ndarray) -> np.ndarray:
    """Mean of each cell, float32 (N, cells, cells), of images, (N, size, size); pixels beyond the last whole cell are left."""
    cell = cell_of(images.shape[1])
    count = images.shape[1] // cell
    whole = images[:, : count * cell, : count * cell].reshape(len(images), count, cell, count, cell)
    return whole.mean(axis=(2, 4), dtype=np.float32)


def choose_patients(patients: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Rows (count,) of one view each of `count` of the patients (N,), drawn by the seed; UserError if there are fewer."""
    names = np.unique(patients)
    if len(names) < count:
        raise UserError(
            f"privacy.canaries = {count}, but the generator learns from {len(names)} patients; lower it to at most that"
        )
    generator = philox(seed, PATIENTS)
    chosen = names[generator.permutation(len(names))[:count]]
    return np.array([generator.choice(np.flatnonzero(patients == patient)) for patient in chosen])


def best_scores(images: np.ndarray, codes: np.ndarray, place: np.ndarray) -> np.ndarray:
    """float32 (M,): the largest cosine of each code (M, CODE, CODE / 2) at a place in images, uint8 (N, size, size)."""
    flat = codes.reshape(len(codes), -1).astype(np.float32) / np.sqrt(codes[0].size, dtype=np.float32)
    best = np.full(len(codes), -1, np.float32)
    for way in (in_cells(images), in_cells(images[:, :, ::-1])):
        for down in range(-SHIFT, SHIFT + 1):
            for right in range(-SHIFT, SHIFT + 1):
                row, column = place[0] + down, place[1] + right
                window = way[:, row : row + CODE, column : column + CODE]
                pairs = (window[:, :, ::2] - window[:, :, 1::2]).reshape(len(way), -1)
                norm = np.linalg.norm(pairs, axis=1, keepdims=True)
                seen = np.divide(
                    pairs, norm, out=np.zeros_like(pairs), where=norm > LEAST_CONTRAST * np.sqrt(pairs.shape[1])
                )
                np.maximum(best, (flat @ seen.T).max(axis=1), out=best)
    return best


def chances(images: np.ndarray, canaries: Canaries, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Score (n,) of each canary's code in images, uint8 (N, size, size), and its chance (n,).

    The chance is the share of codes, the canary's own and REFERENCES unplanted ones, that score as high at its place: for
    a canary that is not in the images it is uniform on 1 / (REFERENCES + 1), …, 1.
    """
    others = draw_codes(seed, len(canaries.codes), REFERENCES)
    scores, shares = [], []
    for code, place in zip(canaries.codes, canaries.places, strict=True):
        own, *rest = best_scores(images, np.concatenate([code[None], others]), place)
        scores.append(own)
        shares.append((1 + np.count_nonzero(np.asarray(rest) >= own)) / (REFERENCES + 1))
    return np.array(scores), np.array(shares)


def expected_return(views: int, images: int) -> float:
    """Share of canaries that a generator would return that draws its `views` training views at random, `images` times."""
    return float(1 - (1 - 1 / views) ** images)


def exact_interval(found: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's interval of a share of which `found` of `count` were seen."""
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = float(betaincinv(found, count - found + 1, tail)) if found else 0.0
    high = float(betaincinv(found + 1, count - found, 1 - tail)) if found < count else 1.0
    return low, high
