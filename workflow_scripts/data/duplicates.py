"""Near-duplicates: views that show the same picture, found by a perceptual hash and confirmed by an exact distance.

The same picture under two patients leaks from training into test, as does one patient in two folds (paper, Sec. 3). The
hash is imagehash's phash with 256 bits: with its usual 64 bits, sonograms of one organ are too similar, and about five
times as many pairs have to be confirmed. The exact distance is one minus the correlation of local contrast, which
brightness, gain and gamma hardly change, whereas grey levels alone make all sonograms of one organ alike: they share
the dark at depth and the outline of the sector. Both stages work in blocks, so that memory grows with the number of
views and of near-duplicates, not with that of pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

HASH_SIDE = 16
HASH_BITS = HASH_SIDE**2
# Side of the reduced views that are compared, pixels: burnt-in callipers are averaged away, anatomy stays.
SIDE = 32
# Standard deviation of the blur that gives the local mean, in reduced pixels: an eighth of a view.
BLUR = 4
# Grey levels above a view's darkest that count as black: letterbox borders and shadows carry no information.
BLACK = 8
# Share of pixels that must not be black, and root mean square local contrast in grey levels, for a view to be judged.
LEAST_AREA, LEAST_CONTRAST = 0.1, 2.0
# Views per block: a block of pairs takes some 4 MiB.
BLOCK = 1024
# Candidates that are confirmed at a time: 2 x 4 KiB each.
BATCH = 4096


class Pairs(NamedTuple):
    """Near-duplicates, sorted by distance, then by position; each (P,)."""

    first: np.ndarray
    """Positions of one view, smaller than those in `second`."""
    second: np.ndarray
    hash_distance: np.ndarray
    """Bits that differ, 0 to 256."""
    distance: np.ndarray
    """0, the same local contrast everywhere, to 2."""


class Prints(NamedTuple):
    """What is kept of N views to compare them."""

    bits: np.ndarray
    """Perceptual hashes, int8 of -1 and 1, (N, 256)."""
    contrasts: np.ndarray
    """Local contrast as vectors of length 1, float32 (N, 1024); 0 where a view cannot be judged."""

    @property
    def judged(self) -> np.ndarray:
        """Which views have enough contrast to be compared, bool (N,): all black ones are alike."""
        return np.asarray(self.contrasts.any(axis=1))


def fingerprints(views: Iterable[np.ndarray]) -> Prints:
    """Hash and local contrast of uint8 views (H, W), one at a time."""
    bits, contrasts = [], []
    for view in views:
        bits.append(perceptual_hash(view))
        contrasts.append(local_contrast(view))
    if not bits:
        return Prints(np.zeros((0, HASH_BITS), np.int8), np.zeros((0, SIDE**2), np.float32))
    return Prints(np.stack(bits), np.stack(contrasts))


def perceptual_hash(view: np.ndarray) -> np.ndarray:
    """imagehash's phash of a uint8 view (H, W) as int8 of -1 and 1, (256,)."""
    from imagehash import phash
    from PIL import Image

    return np.where(phash(Image.fromarray(view), hash_size=HASH_SIDE).hash.ravel(), 1, -1).astype(np.int8)


def local_contrast(view: np.ndarray) -> np.ndarray:
    """Grey levels less their local mean where a uint8 view (H, W) is not black, as a float32 vector of length 1, (1024,).

    Black pixels are 0 and no part of any local mean, so that borders do not correlate. A view that is nearly all black
    or flat gives zeros.
    """
    from PIL import Image
    from scipy.ndimage import gaussian_filter

    reduced = np.asarray(Image.fromarray(view).resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)
    shown = (reduced > reduced.min() + BLACK).astype(np.float32)
    if shown.mean() < LEAST_AREA:
        return np.zeros(SIDE**2, np.float32)
    weight = gaussian_filter(shown, BLUR, mode="constant")
    mean = gaussian_filter(reduced * shown, BLUR, mode="constant") / np.maximum(weight, np.finfo(np.float32).eps)
    contrast = (shown * (reduced - mean)).ravel()
    length = np.linalg.norm(contrast)
    if length < LEAST_CONTRAST * np.sqrt(shown.sum()):
        return np.zeros(SIDE**2, np.float32)
    return contrast / length


def near_duplicates(
    prints: Prints, patients: np.ndarray, hash_distance: int, distance: float, block: int = BLOCK
) -> Pairs:
    """Pairs of judged views of different patients within both distances.

    `patients` (N,) holds one number per view, the same for views of one patient. The result does not depend on
    `block`.
    """
    found = [
        confirmed(prints.contrasts, first, second, bits, distance)
        for first, second, bits in candidates(prints.bits, prints.judged, patients, hash_distance, block)
    ]
    none = [np.zeros(0, np.int64)] * 3 + [np.zeros(0)]
    first, second, bits, apart = (np.concatenate(column) for column in zip(none, *found, strict=True))
    order = np.lexsort((second, first, apart))
    return Pairs(first[order], second[order], bits[order], apart[order])


def candidates(
    bits: np.ndarray, judged: np.ndarray, patients: np.ndarray, hash_distance: int, block: int = BLOCK
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Positions and hash distances of the pairs within `hash_distance` bits, block by block.

    The Hamming distance of -1 and 1 is (256 - a·b) / 2: exact in float32, as a matrix product.
    """
    rows = np.flatnonzero(judged)
    for start in range(0, len(rows), block):
        here = rows[start : start + block]
        ours = bits[here].astype(np.float32)
        for other in range(start, len(rows), block):
            there = rows[other : other + block]
            product = ours @ bits[there].astype(np.float32).T
            i, j = np.nonzero(product >= HASH_BITS - 2 * hash_distance)
            first, second = here[i], there[j]
            kept = (first < second) & (patients[first] != patients[second])
            if kept.any():
                yield first[kept], second[kept], ((HASH_BITS - product[i, j][kept]) / 2).astype(int)


def confirmed(
    contrasts: np.ndarray, first: np.ndarray, second: np.ndarray, bits: np.ndarray, distance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The candidates whose local contrast differs by at most `distance`, and by how much."""
    apart = np.empty(len(first))
    for start in range(0, len(first), BATCH):
        part = slice(start, start + BATCH)
        product = np.einsum("ij,ij->i", contrasts[first[part]], contrasts[second[part]])
        # Six digits: what is left of the sum's rounding must not order identical views.
        apart[part] = np.round(np.maximum(1 - product.astype(np.float64), 0), 6)
    kept = apart <= distance
    return first[kept], second[kept], bits[kept], apart[kept]


def patient_numbers(patients: Sequence[str], images: Sequence[str]) -> np.ndarray:
    """One number per patient for the views' patient_id and image_id, (N,).

    An image without a patient_id is a patient of its own, but all views of an image are of one patient.
    """
    known = {image: patient for patient, image in zip(patients, images, strict=True) if patient}
    keys = [("patient", known[image]) if image in known else ("image", image) for image in images]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], np.int64)
