"""Phantom frames: what a scanner's screenshot of a testicle or a thyroid looks like, drawn from noise.

Speckle is made as a scanner makes it: random scatterers, weighted by a map of the tissue's reflectivity, are convolved
with an anisotropic point-spread function; the envelope is log-compressed (Burckhardt 1978, Wagner 1983). Parenchyma is
homogeneous (one reflectivity) or inhomogeneous (coarse patches of higher and lower reflectivity with the same mean
level in decibels, so that brightness does not give the class away).

A frame is a pure function of (seed, image id, patient id, organ, class).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

# Layout of a stored Esaote MyLab frame (paper, Sec. 3): height, width, and top-left corners of the two views.
FRAME = (600, 800)
VIEW = 300
CORNERS = ((130, 185), (130, 485))
PLANES = ("transverse", "sagittal")

# Standard deviations in pixels of the point-spread function: axial (down) and lateral (across).
POINT_SPREAD = (1.2, 2.4)
DYNAMIC_RANGE_DB = 48.0


@dataclass(frozen=True)
class Patient:
    """What the views of one patient share."""

    gain_db: float
    attenuation_db: float  # loss from the top to the bottom of a view that the scanner does not compensate
    size: float  # relative size of the organ
    depth: float  # centre of the organ as a share of the view's height


def generator(seed: int, *names: str) -> np.random.Generator:
    """A generator that depends on the seed and the names alone."""
    digest = hashlib.blake2b("/".join([str(seed), *names]).encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def draw_frame(seed: int, image_id: str, patient_id: str, organ: str, inhomogeneous: bool, thyroid: bool) -> np.ndarray:
    """A screenshot, uint8 (600, 800): two views at the `esaote_mylab` boxes, grey bar, burnt-in text, on some callipers.

    `thyroid` chooses the second organ's anatomy; `organ` is only printed. The texture class of a thyroid is ignored.
    """
    draws = generator(seed, "patient", patient_id or image_id)
    patient = Patient(draws.uniform(-4, 4), draws.uniform(0, 8), draws.uniform(0.85, 1.15), draws.uniform(0.46, 0.54))
    frame = np.zeros(FRAME, np.uint8)
    for (top, left), plane in zip(CORNERS, PLANES, strict=True):
        draws = generator(seed, "view", image_id, plane)
        reflectivity = (
            thyroid_map(draws, patient, plane) if thyroid else testicle_map(draws, patient, plane, inhomogeneous)
        )
        view = as_grey(speckle(draws, reflectivity), patient)
        if draws.random() < 0.35:
            draw_callipers(draws, view)
        frame[top : top + VIEW, left : left + VIEW] = np.round(255 * view)
    # The grey bar beside the sonograms.
    frame[130:430, 152:166] = np.linspace(255, 0, 300, dtype=np.uint8)[:, None]
    return burn_in_text(frame, ["PHANTOM - not a patient", f"{organ}  {image_id}", "B  F 12.0 MHz  D 40 mm  PRC 8/3/2"])


def testicle_map(draws: np.random.Generator, patient: Patient, plane: str, inhomogeneous: bool) -> np.ndarray:
    """Reflectivity, float32 (300, 300), of a testicle: rounder in the transverse plane, longer in the sagittal one."""
    width = draws.uniform(0.27, 0.31) if plane == "transverse" else draws.uniform(0.38, 0.42)
    height = draws.uniform(0.24, 0.28)
    distance = ellipse(
        centre=(patient.depth + draws.normal(0, 0.01), 0.5 + draws.normal(0, 0.02)),
        radii=(height * patient.size, width * patient.size),
        tilt=draws.normal(0, 0.12),
    )
    surround = 0.22 * np.exp(0.5 * smooth_field(draws, (4, 30)))
    # Contrast of the patches in nepers; some inhomogeneous testicles are close to the homogeneous ones.
    contrast = draws.uniform(0.34, 0.70) if inhomogeneous else draws.uniform(0.05, 0.22)
    patches = smooth_field(draws, (draws.uniform(8, 14),) * 2)
    inside = patches[distance < 1]
    parenchyma = np.exp(contrast * (patches - inside.mean()) / inside.std())
    tissue = np.where(distance < 1, parenchyma, surround)
    tissue[(distance > 1) & (distance < 1.12)] = 1.9  # tunica albuginea
    tissue[(distance > 1.12) & (distance < 1.4)] *= 0.25  # a rim of fluid
    return tissue.astype(np.float32)


def thyroid_map(draws: np.random.Generator, patient: Patient, plane: str) -> np.ndarray:
    """Reflectivity, float32 (300, 300), of a thyroid: lobes below a striped muscle layer, beside a dark trachea."""
    stripes = np.exp(0.7 * np.sin(np.arange(VIEW) / draws.uniform(2.5, 4.0)))[:, None] * np.ones((1, VIEW))
    tissue = 0.3 * stripes * np.exp(0.3 * smooth_field(draws, (3, 25)))
    middle = patient.depth + draws.normal(0, 0.02)
    parenchyma = 1.1 * np.exp(draws.uniform(0.05, 0.25) * smooth_field(draws, (8, 8)))
    if plane == "transverse":
        for side in (-1, 1):
            lobe = ellipse((middle, 0.5 + side * draws.uniform(0.22, 0.26)), (0.17 * patient.size, 0.15), side * 0.3)
            tissue = np.where(lobe < 1, parenchyma, tissue)
        trachea = ellipse((middle + 0.05, 0.5), (0.16, 0.13), 0.0)
        tissue = np.where(trachea < 1, 0.02, np.where(trachea < 1.25, 1.8, tissue))
    else:
        lobe = ellipse((middle, 0.5), (0.16 * patient.size, 0.46), draws.normal(0, 0.05))
        tissue = np.where(lobe < 1, parenchyma, tissue)
    if draws.random() < 0.4:
        nodule = ellipse((middle + draws.normal(0, 0.04), draws.uniform(0.25, 0.75)), (0.06, 0.07), 0.0)
        tissue = np.where(nodule < 1, draws.choice([0.08, 0.4, 2.0]), tissue)
    return tissue.astype(np.float32)


def ellipse(centre: tuple[float, float], radii: tuple[float, float], tilt: float) -> np.ndarray:
    """Squared elliptic distance (300, 300), 1 on the ellipse; lengths are shares of the side, tilt in radians."""
    rows, columns = np.mgrid[:VIEW, :VIEW] / VIEW
    down, across = rows - centre[0], columns - centre[1]
    cosine, sine = np.cos(tilt), np.sin(tilt)
    return ((down * cosine - across * sine) / radii[0]) ** 2 + ((down * sine + across * cosine) / radii[1]) ** 2


def smooth_field(draws: np.random.Generator, scale: tuple[float, float]) -> np.ndarray:
    """A Gaussian random field (300, 300) of mean 0 and variance 1, smooth over `scale` pixels (down, across)."""
    field = ndimage.gaussian_filter(draws.standard_normal((VIEW, VIEW), dtype=np.float32), scale, truncate=3)
    return (field - field.mean()) / field.std()


def speckle(draws: np.random.Generator, reflectivity: np.ndarray) -> np.ndarray:
    """Envelope (300, 300) of fully developed speckle: complex scatterers through the point-spread function."""
    scatterers = draws.standard_normal((2, VIEW, VIEW), dtype=np.float32) * reflectivity
    real, imaginary = (ndimage.gaussian_filter(part, POINT_SPREAD, truncate=3) for part in scatterers)
    return np.hypot(real, imaginary)


def as_grey(envelope: np.ndarray, patient: Patient) -> np.ndarray:
    """Log-compressed grey values in [0, 1] with the patient's gain and attenuation."""
    decibels = 20 * np.log10(envelope + 1e-6) + patient.gain_db
    decibels -= patient.attenuation_db * np.linspace(0, 1, VIEW)[:, None]
    return np.clip((decibels + DYNAMIC_RANGE_DB - 6) / DYNAMIC_RANGE_DB, 0, 1).astype(np.float32)


def draw_callipers(draws: np.random.Generator, view: np.ndarray) -> None:
    """Burn two crosses with a dotted line between them into a view, in place."""
    first = draws.uniform((0.3, 0.1), (0.7, 0.3)) * VIEW
    last = draws.uniform((0.3, 0.7), (0.7, 0.9)) * VIEW
    for row, column in (first.astype(int), last.astype(int)):
        view[row - 5 : row + 6, column] = 1
        view[row, column - 5 : column + 6] = 1
    for share in np.linspace(0, 1, 25):
        row, column = (first + share * (last - first)).astype(int)
        view[row : row + 2, column : column + 2] = 1


def burn_in_text(frame: np.ndarray, lines: list[str]) -> np.ndarray:
    """The frame with text above the views, as scanners burn in names and settings."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(frame)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=20)
    for i, line in enumerate(lines):
        pen.text((20, 14 + 28 * i), line, fill=230, font=font)
    for (top, left), plane in zip(CORNERS, PLANES, strict=True):
        pen.text((left + 6, top + VIEW + 8), plane, fill=200, font=ImageFont.load_default(size=16))
    return np.asarray(image)


def manifest_rows(
    seed: int, labelled_patients: int, unlabelled_testicles: int, thyroids: int, positive_share: float, wrong_labels: float,
    organs: tuple[str, str], classes: tuple[str, str],
) -> list[dict[str, str]]:  # fmt: skip
    """Manifest rows of a phantom study: two testicles per labelled patient, and frames without labels.

    Exactly round(positive_share * testicles) testicles are truly positive, three of four of them on both sides of a
    patient where the numbers allow it; the unlabelled testicles have that share too. Exactly round(wrong_labels *
    testicles) labels are planted wrong, as many in one class as in the other where the classes are large enough, so
    that the share of positive labels stays.
    """
    draws = generator(seed, "manifest")
    testicles = 2 * labelled_patients
    positives, wrong = round(positive_share * testicles), round(wrong_labels * testicles)
    order = draws.permutation(labelled_patients)
    # Disease is mostly bilateral; with many positives there must be more bilateral patients, or patients run out.
    bilateral = max(positives * 3 // 8, positives - labelled_patients)
    unilateral = positives - 2 * bilateral
    truths = [False] * testicles
    for patient in order[:bilateral]:
        truths[2 * patient] = truths[2 * patient + 1] = True
    for patient in order[bilateral : bilateral + unilateral]:
        truths[2 * patient + int(draws.integers(2))] = True
    in_positives = min(max(wrong // 2, wrong - (testicles - positives)), positives)
    flips: set[int] = set()
    for truth, count in ((True, in_positives), (False, wrong - in_positives)):
        candidates = [i for i in range(testicles) if truths[i] == truth]
        flips |= {int(i) for i in draws.choice(candidates, count, replace=False)} if count else set()
    unlabelled_positives = round(positive_share * unlabelled_testicles)
    hidden = draws.permutation(unlabelled_testicles) < unlabelled_positives
    rows = []
    for i, truth in enumerate(truths):
        patient, side = f"P{i // 2 + 1:03}", ("left", "right")[i % 2]
        label = classes[truth != (i in flips)]
        rows.append(_row(f"{patient}_{side}", patient, organs[0], label, side, classes[truth]))
    for i in range(unlabelled_testicles):
        rows.append(_row(f"U{i + 1:03}_left", f"U{i + 1:03}", organs[0], "", "left", classes[int(hidden[i])]))
    for i in range(thyroids):
        rows.append(_row(f"T{i + 1:03}", f"T{i + 1:03}", organs[1], "", "", classes[0]))
    return rows


def _row(image_id: str, patient: str, organ: str, label: str, side: str, truth: str) -> dict[str, str]:
    return {
        "image_id": image_id, "path": f"{organ}/{image_id}.png", "patient_id": patient, "organ": organ, "label": label,
        "device": "esaote_mylab", "side": side, "truth": truth,
    }  # fmt: skip
