"""Copy audit of synthetic views: is one closer to a training view than views of unseen patients come to be?

Every candidate is compared with all training views by several detectors: in pixels, by normalised cross-correlation at
its maximum over horizontal flips and shifts, and in the features of networks (`copy_encoder`), at the nearest of the
training view and crops of it. Each detector gives two pieces of evidence, the nearest distance itself and the nearest
relative to the mean of the nearest NEIGHBOURS: where a picture resembles everything, closeness to one says little. All
pieces are put on one scale by what training views give against other patients' training views. A detector's score is the
larger of its two pieces, a view's score the largest of its detectors'. One threshold holds for all: it comes from
held-out patients' views alone, which the networks know as well as the training views. Since the scale does not depend on
the held-out views, the false-alarm rate of the threshold has a bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import progress
from workflow_scripts.core.statistics import patient_weights
from workflow_scripts.privacy.membership import DRAWS
from workflow_scripts.synthesis.neighbours import nearest, nearest_others

# Pixels are compared at this side at most: a copy is recognised there, and time grows with its square.
SIDE = 64
# Nearest training views that "relative" relates to.
NEIGHBOURS = 50
BLOCK = 1024
# A held-out view that correlates like this with a training view is the same picture: its patient is not unseen. On
# public thyroid images other patients reach 0.41; two duplicates under other patient ids, at 1.00, would hide all.
SAME_PICTURE = 0.95
PIXELS = "pixels"
# The networks that stand beside the pixels in the audit (`copy_encoder` has them).
ENCODERS = ("copy encoder", "patient encoder")


class Views(NamedTuple):
    """Views as detectors compare them: pixels, uint8 (N, size, size); by network the features of each view and of crops
    of it, (N, crops, D), the whole view first; and who they show, (N,), where that matters."""

    pixels: np.ndarray
    features: Mapping[str, np.ndarray]
    patients: np.ndarray = np.empty(0)

    def select(self, rows: np.ndarray) -> Views:
        """Those of some rows, bool or int."""
        features = {name: values[rows] for name, values in self.features.items()}
        return Views(self.pixels[rows], features, self.patients[rows] if len(self.patients) else self.patients)


@dataclass(frozen=True)
class Closeness:
    """How close views come to training views, by detector.

    `evidence`: float64 (N, detectors, 2), larger means more like a copy. `rows`: (N, detectors), the nearest training view.
    """

    evidence: np.ndarray
    rows: np.ndarray

    @property
    def correlation(self) -> np.ndarray:
        """The best correlation (N,) in [-1, 1]; pixels are the first detector."""
        return self.evidence[:, 0, 0]


# Of each view its nearest training views by one detector, arrays (N, n): nearness, descending; distance; rows.
Neighbours = tuple[np.ndarray, np.ndarray, np.ndarray]


def closeness(views: Views, known: Views, shift: int) -> Closeness:
    """Compare views with `known` ones; `shift` in view pixels."""
    return _closeness(_neighbours(views, known, shift, min(NEIGHBOURS, len(known.pixels))))


def closeness_within(known: Views, shift: int) -> Closeness:
    """Compare training views with those of *other* training patients (at least two)."""
    largest = int(np.unique(known.patients, return_counts=True)[1].max())
    if largest == len(known.pixels):
        raise UserError(f"the {largest} training views belong to one patient; the copy audit needs at least 2 patients")
    count = min(NEIGHBOURS + largest, len(known.pixels))

    def others(values: Neighbours) -> Neighbours:
        own = known.patients[values[2]] == known.patients[:, None]
        order = np.argsort(own, axis=1, kind="stable")[:, : count - largest]
        nearness, distance, rows = (np.take_along_axis(value, order, axis=1) for value in values)
        return nearness, distance, rows

    return _closeness(others(found) for found in _neighbours(known, known, shift, count))


def _neighbours(views: Views, known: Views, shift: int, count: int) -> Iterator[Neighbours]:
    correlation, rows = nearest_by_correlation(views.pixels, known.pixels, shift, count)
    correlation = correlation.astype(np.float64)
    yield correlation, np.sqrt(np.maximum(2 - 2 * correlation, 0)), rows
    for name, features in known.features.items():
        distance, rows = nearest_crops(views.features[name][:, 0], features, count)
        yield -distance, distance, rows


def _closeness(found: Iterable[Neighbours]) -> Closeness:
    evidence, nearest_rows = [], []
    for nearness, distance, rows in found:
        mean = distance.mean(axis=1)
        relative = np.divide(distance[:, 0], mean, out=np.zeros(len(distance)), where=mean > 0)
        evidence.append(np.stack([nearness[:, 0], -relative], axis=1))
        nearest_rows.append(rows[:, 0])
    return Closeness(np.stack(evidence, axis=1), np.stack(nearest_rows, axis=1))


def nearest_crops(points: np.ndarray, reference: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` nearest views of each point (N, D), by the nearest of each view's crops (M, crops, D), nearest first.

    Distances (N, count), float64, and rows (N, count). A copy that was cropped lies near the same crop of its original.
    """
    blocks = range(0, len(points), BLOCK)
    found = [_nearest_crops(points[start : start + BLOCK], reference, count) for start in blocks]
    distance, rows = (np.concatenate(values) for values in zip(*found, strict=True))
    return distance, rows


def _nearest_crops(points: np.ndarray, reference: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    # Whoever is among the nearest is so by the crop that lies nearest, too.
    found = [nearest(points, reference[:, crop], count) for crop in range(reference.shape[1])]
    distance, rows = (np.concatenate(values, axis=1) for values in zip(*found, strict=True))
    order = np.argsort(distance, axis=1, kind="stable")
    distance, rows = np.take_along_axis(distance, order, axis=1), np.take_along_axis(rows, order, axis=1)
    # Of each view the nearest crop counts; sorted by view, its others follow it, and they go to the end.
    by_view = np.argsort(rows, axis=1, kind="stable")
    again = np.diff(np.take_along_axis(rows, by_view, axis=1), axis=1, prepend=-1) == 0
    farther = np.empty_like(again)
    np.put_along_axis(farther, by_view, again, axis=1)
    kept = np.argsort(farther, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(distance, kept, axis=1), np.take_along_axis(rows, kept, axis=1)


def nearest_by_correlation(
    views: np.ndarray, training: np.ndarray, shift: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The `count` best correlated training views of each view: correlations float32 (N, count) descending, and rows.

    Both are shrunk to SIDE and high-pass filtered. The view's centre is compared with every window of the training
    view up to `shift` pixels away, and mirrored; each window is normalised to mean 0 and norm 1, so that each number
    is a true normalised cross-correlation. (Windows as matrix products: at a few pixels of shift this beats an FFT.)
    """
    size = views.shape[1]
    if shift > size // 4:
        raise UserError(
            f"manifold.privacy.shift = {shift} leaves too little of views of {size} pixels to compare; lower it to at"
            f" most {size // 4}"
        )
    side = min(SIDE, size)
    margin = math.ceil(shift * side / size)
    inner = side - 2 * margin
    shrunk = high_pass(shrink(training, side))
    offsets = [(y, x) for y in range(2 * margin + 1) for x in range(2 * margin + 1)]
    correlations = np.empty((len(views), count), dtype=np.float32)
    rows = np.empty((len(views), count), dtype=np.int64)
    starts = range(0, len(views), BLOCK)
    for start in progress(starts, "compare pixels", "block", len(starts)) if len(starts) > 1 else starts:
        centre = high_pass(shrink(views[start : start + BLOCK], side))[
            :, margin : margin + inner, margin : margin + inner
        ]
        plain, mirrored = _normalised(centre), _normalised(centre[:, :, ::-1])
        best = np.full((len(centre), len(training)), -1, dtype=np.float32)
        for y, x in offsets:
            windows = _normalised(shrunk[:, y : y + inner, x : x + inner]).T
            np.maximum(best, plain @ windows, out=best)
            np.maximum(best, mirrored @ windows, out=best)
        order = np.argsort(-best, axis=1, kind="stable")[:, :count]
        rows[start : start + len(centre)] = order
        correlations[start : start + len(centre)] = np.take_along_axis(best, order, axis=1)
    return np.clip(correlations, -1, 1), rows


def shrink(views: np.ndarray, side: int) -> np.ndarray:
    """float32 (N, side, side): area averages of views (N, size, size), size >= side."""
    size = views.shape[1]
    edges = np.linspace(0, size, side + 1)
    low, high = edges[:-1, None], edges[1:, None]
    pixel = np.arange(size)
    weights = np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None).astype(np.float32)
    weights *= np.float32(side / size)
    return np.matmul(np.matmul(weights, views.astype(np.float32)), weights.T)


def high_pass(images: np.ndarray) -> np.ndarray:
    """Images (N, side, side) minus their Gaussian blur (sigma side / 16): brightness and depth gain drop out."""
    from scipy.ndimage import gaussian_filter

    return images - gaussian_filter(images, sigma=images.shape[1] / 16, axes=(1, 2))


def _normalised(windows: np.ndarray) -> np.ndarray:
    """(N, pixels) with mean 0 and norm 1; a window without contrast is all 0, so that it correlates with nothing."""
    flat = windows.reshape(len(windows), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.divide(flat, norm, out=np.zeros_like(flat), where=norm > 1e-3 * math.sqrt(flat.shape[1]))


@dataclass(frozen=True)
class Scale:
    """Centre and unit (detectors, 2) of each piece of evidence, which make the pieces comparable."""

    centre: np.ndarray
    unit: np.ndarray

    def score(self, evidence: np.ndarray) -> np.ndarray:
        """Score (N, detectors), the larger standardised piece of each detector's evidence (N, detectors, 2)."""
        return ((evidence - self.centre) / self.unit).max(axis=2)


def scale_of(evidence: np.ndarray) -> Scale:
    """The scale on which evidence (N, detectors, 2) has median 0 and 95th percentile 1: copies lie on that side."""
    centre = np.median(evidence, axis=0)
    unit = np.quantile(evidence, 0.95, axis=0) - centre
    return Scale(centre, np.where(unit > 0, unit, 1.0))


@dataclass(frozen=True)
class Calibration:
    """The threshold of all detectors, and who set it: scores (H, detectors) and patients (H,) of unseen patients' views.

    `same`: bool, which of all held-out views are the same picture as a training view; their patients set nothing.
    `usable`: bool, which of all held-out views remained.
    """

    threshold: float
    scores: np.ndarray
    patients: np.ndarray
    same: np.ndarray
    usable: np.ndarray
    false_alarms: float

    @property
    def control(self) -> np.ndarray:
        """bool (H, detectors): who lies above the threshold that the other patients set? The honest control."""
        return self.scores > cross_fitted_thresholds(self.scores.max(axis=1), self.patients, self.false_alarms)[:, None]

    @property
    def alarms(self) -> np.ndarray:
        """bool (H,): whose view any detector flags so."""
        return np.any(self.control, axis=1)


class Detectors:
    """The detectors of copies of `known` views, `names` (`PIXELS`, and networks), on one scale."""

    def __init__(self, known: Views, shift: int) -> None:
        self.known, self.shift, self.names = known, shift, (PIXELS, *known.features)
        self.scale = scale_of(closeness_within(known, shift).evidence)

    def closeness(self, views: Views) -> Closeness:
        """What each detector finds nearest to the views."""
        return closeness(views, self.known, self.shift)

    def scores(self, views: Views) -> np.ndarray:
        """(N, detectors) of the views."""
        return self.scale.score(self.closeness(views).evidence)

    def calibrated(self, unseen: Views, false_alarms: float) -> Calibration:
        """The threshold that held-out patients' views set.

        Raises `UserError` where fewer than two patients remain whose views are not also training views.
        """
        found = closeness(unseen, self.known, self.shift)
        usable = really_unseen(found.correlation, unseen.patients)
        patients = unseen.patients[usable]
        if len(set(patients)) < 2:
            raise UserError(
                f"the copy audit calibrates on patients the generator never saw and needs at least 2; there are"
                f" {len(set(patients))} held-out patients whose pictures are not also training views. Set"
                " diffusion.holdout_patients (0.15 by default) higher and train the generator again"
            )
        scores = self.scale.score(found.evidence[usable])
        threshold = threshold_of(scores.max(axis=1), false_alarms)
        return Calibration(threshold, scores, patients, found.correlation >= SAME_PICTURE, usable, false_alarms)

    def shares(self, flags: np.ndarray) -> dict[str, Any]:
        """How many of some views (bool (N, detectors)) any detector flags, and each: views, copies, share, by."""
        any_flag = flags.any(axis=1)
        by = {name: float(flags[:, i].mean()) if len(flags) else 0.0 for i, name in enumerate(self.names)}
        share = float(any_flag.mean()) if len(flags) else 0.0
        return {"views": len(flags), "copies": int(any_flag.sum()), "share": share, "by": by}


def threshold_of(scores: np.ndarray, false_alarms: float) -> float:
    """The score above which at most `false_alarms` x N of these scores (N,) of views that cannot be copies lie.

    For N < 1 / false_alarms it is the largest of them.
    """
    return float(np.sort(scores)[len(scores) - 1 - allowed_alarms(len(scores), false_alarms)])


def allowed_alarms(views: int, false_alarms: float) -> int:
    """How many of the calibrating views may lie above the threshold."""
    return math.floor(false_alarms * views + 1e-9)


def false_alarm_bound(views: int, false_alarms: float) -> float:
    """Upper 95 % bound of the true false-alarm rate of `threshold_of` so many views, were they independent.

    With m of n calibrating scores above the threshold the rate is Beta(m + 1, n - m) distributed, whatever the scores'
    distribution; for m = 0 this is the rule of three, 3 / n.
    """
    from scipy.special import betaincinv

    allowed = allowed_alarms(views, false_alarms)
    return float(betaincinv(allowed + 1, views - allowed, 0.95))


def cross_fitted_thresholds(scores: np.ndarray, patients: np.ndarray, false_alarms: float) -> np.ndarray:
    """For each held-out view the threshold (N,) that the other held-out patients' scores (N,) set."""
    thresholds = np.empty(len(scores))
    for patient in np.unique(patients):
        own = patients == patient
        thresholds[own] = threshold_of(scores[~own], false_alarms)
    return thresholds


def share_interval(flags: np.ndarray, patients: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % interval of the share of flagged views, bootstrapped over patients."""
    weights = patient_weights(patients, DRAWS, np.random.default_rng(seed))
    low, high = np.quantile((weights @ flags) / weights.sum(axis=1), [0.025, 0.975])
    return float(low), float(high)


def authentic(features: np.ndarray, training: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """bool (N,): is a view farther from its nearest training view than that one is from all others of its set? (Alaa
    et al. 2022); and that distance (N,). No alarm by itself: many fresh real views are not."""
    distance, rows = nearest(features, training, 1)
    return distance[:, 0] > nearest_others(training, 1)[rows[:, 0], 0], distance[:, 0]


def really_unseen(correlation: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """bool (N,): held-out views of patients none of whose pictures is also a training view (best correlations (N,))."""
    return ~np.isin(patients, patients[correlation >= SAME_PICTURE])


def summarise(
    detectors: Detectors, calibration: Calibration, flags: np.ndarray, kept: np.ndarray, seed: int
) -> dict[str, Any]:
    """Counts, shares and their honest yardsticks for the report, as JSON values.

    `flags`, bool (N, detectors), and `kept`, bool (N,), of the synthetic views. `excess` is the flagged share minus the
    share of held-out views that the other held-out patients' threshold flags; its interval bootstraps those patients.
    """
    control = detectors.shares(calibration.control)
    low, high = share_interval(calibration.alarms, calibration.patients, seed)
    flagged, excess = {}, {}
    for name, members in (("unfiltered", np.ones(len(flags), dtype=bool)), ("filtered", kept)):
        flagged[name] = detectors.shares(flags[members])
        share = flagged[name]["share"]
        excess[name] = {"share": share - control["share"], "low": share - high, "high": share - low}
    views, false_alarms = len(calibration.scores), calibration.false_alarms
    return {
        "held_out_views": views,
        "held_out_patients": len(np.unique(calibration.patients)),
        "false_alarms": false_alarms,
        "false_alarm_bound": false_alarm_bound(views, false_alarms),
        "rate_certified": views >= 1 / false_alarms,
        "threshold": calibration.threshold,
        "flagged": flagged,
        "control": {**control, "low": low, "high": high},
        "excess": excess,
    }


def statements(summary: Mapping[str, Any]) -> dict[str, str]:
    """What may and what may not be claimed of an audited set: `may_say`, `may_not_say`, `caveats`."""
    planted = ", ".join(f"{row['kind']} {row['share']:.0%}" for row in summary["planted"])
    real = summary["authentic"]["held_out"]
    flagged, excess = summary["flagged"]["filtered"], summary["excess"]["filtered"]
    may = (
        f"Copies of these kinds of training views are found in these shares (planted copies): {planted}. Of the"
        f" {flagged['views']} filtered generated views {flagged['copies']} ({flagged['share']:.1%}) are flagged,"
        f" against {summary['control']['share']:.1%} of {summary['held_out_views']} views of"
        f" {summary['held_out_patients']} patients the generator never saw: an excess of"
        f" {100 * excess['share']:.1f} points (95 % interval {100 * excess['low']:.1f} to {100 * excess['high']:.1f})."
    )
    may_not = (
        "Not: that the set is anonymous, differentially private or safe under any law; that no patient can be"
        " identified; that copies of other kinds are absent; anything about the weights of other networks than the"
        " generator, whose own memory this audit does not see."
    )
    caveats = [
        (
            f"The threshold aims at {summary['false_alarms']:.1%} false alarms; with"
            f" {summary['held_out_views']} held-out views the true rate is at most"
            f" {summary['false_alarm_bound']:.1%} (95 %, as if views of a patient were independent, which they are"
            " not)."
        ),
        (
            "Generated views are smoother than real ones and can be flagged without being copies: compare with the"
            " control, and leave flagged views out whatever their cause."
        ),
        (
            f"Authenticity (Alaa et al. 2022) is no alarm: of the held-out patients' real views only {real:.0%} count as"
            " authentic."
        ),
        (
            "That training views are not nearer to the set than held-out ones (membership AUC about 0.5) does not"
            " exclude stronger attacks."
        ),
    ]
    strongest = max(summary["generator"].values(), key=lambda attack: attack["auc"]["low"])
    if strongest["auc"]["low"] > 0.5:
        caveats.append(
            f"The generator's weights know their training patients (AUC {strongest['auc']['value']:.2f}): whoever has the"
            " weights can tell them from others. Share the views, not the generator."
        )
    else:
        caveats.append(
            "That the generator treats training patients' views no better than others', as far as"
            f" {strongest['held_out_patients']} held-out patients can tell, does not exclude stronger attacks on its weights."
        )
    if not summary["rate_certified"]:
        caveats.insert(
            1,
            f"The rate cannot be certified: {summary['held_out_views']} held-out views are fewer than 1 /"
            f" {summary['false_alarms']:g}. The threshold is the largest score among them; raise"
            " diffusion.holdout_patients.",
        )
    if summary["same_pictures"]:
        caveats.insert(
            0,
            f"{summary['same_pictures']} held-out views are the same picture as a training view of another patient; the"
            " patients concerned were left out of the calibration. Remove duplicates from the study and run again.",
        )
    return {"may_say": may, "may_not_say": may_not, "caveats": " ".join(caveats)}


def without_held_out(source: Path) -> dict[str, str]:
    """What may and may not be claimed of a set whose generator saw every labelled patient (`source` names none)."""
    return {
        "may_say": "The audit was not possible: no patient was held out from the generator, so there is no telling how"
        f" close to a training view a view comes that is no copy ({source.name} names no patient). No view was judged.",
        "may_not_say": "Not: that the set holds no copies; that it was audited; that it is anonymous, differentially"
        " private or safe under any law; that no patient can be identified.",
        "caveats": "The closest pairs are drawn without verdicts. Look at them before you show the set to anyone. To have"
        " it audited, set diffusion.holdout_patients (0.15 by default) and train the generator again.",
    }
