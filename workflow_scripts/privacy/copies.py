"""Copy audit of synthetic views: is one closer to a training view than views of unseen patients come to be?

Every candidate is compared with all training views in two ways: in features of a copy encoder (`copy_encoder`), and in
pixels by normalised cross-correlation, at its maximum over horizontal flips and shifts. Each gives two pieces of
evidence, the nearest distance itself and the nearest relative to the mean of the nearest NEIGHBOURS: where a picture
resembles everything, closeness to one says little. One measure alone misses noise, crops or redrawn speckle. The four
are put on one scale by what training views give against other patients' training views, and the largest is the score.
The threshold comes from held-out patients' views alone, which the copy encoder knows as well as the training views.
Since the scale does not depend on the held-out views, the false-alarm rate of the threshold has a bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
EVIDENCE = ("correlation", "relative correlation", "encoder distance", "relative encoder distance")


@dataclass(frozen=True)
class Closeness:
    """The nearest training views of each candidate, nearest first; arrays (N, n).

    `correlation` in [-1, 1], descending, of the training views `by_correlation`; `distance` >= 0, ascending, of the
    training views `by_feature`.
    """

    correlation: np.ndarray
    by_correlation: np.ndarray
    distance: np.ndarray
    by_feature: np.ndarray

    def evidence(self) -> np.ndarray:
        """float64 (N, 4), the columns of EVIDENCE; larger means more like a copy."""
        feature = np.stack([-self.distance[:, 0], -_relative(self.distance)], axis=1)
        return np.concatenate([pixel_evidence(self.correlation), feature], axis=1)

    def nearest_rows(self, strongest: np.ndarray) -> np.ndarray:
        """Row (N,) of the nearest training view in the measure that the strongest evidence, a column, is about."""
        return np.where(strongest < 2, self.by_correlation[:, 0], self.by_feature[:, 0])


def pixel_evidence(correlation: np.ndarray) -> np.ndarray:
    """float64 (N, 2), the first two columns of EVIDENCE, from correlations (N, n), descending."""
    distance = np.sqrt(np.maximum(2 - 2 * correlation.astype(np.float64), 0))
    return np.stack([correlation[:, 0].astype(np.float64), -_relative(distance)], axis=1)


def _relative(distance: np.ndarray) -> np.ndarray:
    mean = distance.mean(axis=1)
    return np.divide(distance[:, 0], mean, out=np.zeros(len(distance)), where=mean > 0)


def closeness(
    views: np.ndarray, features: np.ndarray, training_views: np.ndarray, training_features: np.ndarray, shift: int
) -> Closeness:
    """Compare views, uint8 (N, size, size), and their features (N, D) with training views; `shift` in view pixels."""
    count = min(NEIGHBOURS, len(training_views))
    correlation, by_correlation = nearest_by_correlation(views, training_views, shift, count)
    distance, by_feature = nearest(features, training_features, count)
    return Closeness(correlation, by_correlation, distance, by_feature)


def closeness_within(views: np.ndarray, features: np.ndarray, patients: np.ndarray, shift: int) -> Closeness:
    """Compare training views with those of *other* training patients (at least two; patients (N,))."""
    largest = int(np.unique(patients, return_counts=True)[1].max())
    if largest == len(views):
        raise UserError(
            f"the {len(views)} training views belong to one patient; the copy audit needs at least 2 patients"
        )
    count = min(NEIGHBOURS + largest, len(views))

    def others(values: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(patients[rows] == patients[:, None], axis=1, kind="stable")[:, : count - largest]
        return np.take_along_axis(values, order, axis=1), np.take_along_axis(rows, order, axis=1)

    return Closeness(
        *others(*nearest_by_correlation(views, views, shift, count)), *others(*nearest(features, features, count))
    )


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
    """Centre and unit (4,) of each piece of evidence, which make the pieces comparable."""

    centre: np.ndarray
    unit: np.ndarray

    def score(self, evidence: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Score (N,), the largest standardised piece of evidence (N, 4), and which one it is (N,)."""
        standard = (evidence - self.centre) / self.unit
        strongest = standard.argmax(axis=1)
        return standard[np.arange(len(standard)), strongest], strongest


def scale_of(evidence: np.ndarray) -> Scale:
    """The scale on which evidence (N, 4) has median 0 and 95th percentile 1: copies lie on that side."""
    centre = np.median(evidence, axis=0)
    unit = np.quantile(evidence, 0.95, axis=0) - centre
    return Scale(centre, np.where(unit > 0, unit, 1.0))


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


def cross_fitted_alarms(scores: np.ndarray, patients: np.ndarray, false_alarms: float) -> np.ndarray:
    """bool (N,): does a held-out view lie above the threshold that the other held-out patients set? The honest
    control."""
    flagged = np.zeros(len(scores), dtype=bool)
    for patient in np.unique(patients):
        own = patients == patient
        flagged[own] = scores[own] > threshold_of(scores[~own], false_alarms)
    return flagged


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
    copies: np.ndarray,
    kept: np.ndarray,
    held_scores: np.ndarray,
    held_patients: np.ndarray,
    false_alarms: float,
    seed: int,
) -> dict[str, Any]:
    """Counts, shares and their honest yardsticks for the report, as JSON values.

    `copies`, `kept`: bool (N,), of the synthetic views. `excess` is the flagged share minus the share of held-out views
    (scores (H,), patients (H,)) that the other held-out patients' threshold flags; its interval bootstraps those
    patients.
    """
    control = cross_fitted_alarms(held_scores, held_patients, false_alarms)
    low, high = share_interval(control, held_patients, seed)
    flagged, excess = {}, {}
    for name, members in (("unfiltered", np.ones(len(copies), dtype=bool)), ("filtered", kept)):
        share = float(copies[members].mean()) if members.any() else 0.0
        flagged[name] = {"views": int(members.sum()), "copies": int(copies[members].sum()), "share": share}
        excess[name] = {"share": share - float(control.mean()), "low": share - high, "high": share - low}
    views = len(held_scores)
    return {
        "held_out_views": views,
        "held_out_patients": len(np.unique(held_patients)),
        "false_alarms": false_alarms,
        "false_alarm_bound": false_alarm_bound(views, false_alarms),
        "rate_certified": views >= 1 / false_alarms,
        "flagged": flagged,
        "control": {"share": float(control.mean()), "low": low, "high": high},
        "excess": excess,
    }


def statements(summary: Mapping[str, Any]) -> dict[str, str]:
    """What may and what may not be claimed of an audited set: `may_say`, `may_not_say`, `caveats`."""
    planted = ", ".join(f"{row['kind']} {row['found']:.0%}" for row in summary["planted"])
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
