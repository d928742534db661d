"""Was a patient among those that the generator learnt from? Attacks, and how well they do.

From the outside: training views may lie nearer to the synthetic views than unseen patients' views do. From the inside,
with the weights: the generator may denoise views that it was trained on better than others (Matsumoto et al. 2023), or be
led less astray by a step there and back (SecMI, Duan et al. 2023). All recognise members by a number that is smaller for
them; an area under the curve of 0.5 means that it cannot.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from workflow_scripts.core.statistics import patient_weights

DRAWS = 2000
# Shares of unseen patients whom an attack may take for members; each needs so many patients that one of them is a share.
FALSE_ALARMS = (0.1, 0.01)
# Columns of denoising.csv, and what an attack by them is called.
WEIGHT_ATTACKS = {"error": "denoising error", "secmi": "SecMI, a step there and back"}


def membership_auc(
    training: np.ndarray, training_patients: np.ndarray, held_out: np.ndarray, held_out_patients: np.ndarray, seed: int
) -> tuple[float, float, float]:
    """P(a training view lies nearer to the synthetic set than a held-out one), ties half, and its 95 % interval.

    `training` (N,) and `held_out` (H,) are distances to the nearest synthetic view; patients are bootstrapped on both
    sides. 0.5: no difference; 1: every training view is nearer.
    """
    nearer = (training[:, None] < held_out) + 0.5 * (training[:, None] == held_out)
    generator = np.random.default_rng(seed)
    first = patient_weights(training_patients, DRAWS, generator)
    second = patient_weights(held_out_patients, DRAWS, generator)
    draws = ((first @ nearer) * second).sum(axis=1) / (first.sum(axis=1) * second.sum(axis=1))
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(nearer.mean()), float(low), float(high)


def attack_on_weights(errors: np.ndarray, patients: np.ndarray, held_out: np.ndarray, seed: int) -> dict[str, Any]:
    """What an error (N,) of training and `held_out` (bool (N,)) views reveals about who was trained on.

    A patient's number is the mean over the views. `auc`: P(a training patient's error is smaller), as in
    `membership_auc`; `caught`: see there.
    """
    training, unseen = (patient_means(errors[members], patients[members]) for members in (~held_out, held_out))
    auc, low, high = membership_auc(training, np.arange(len(training)), unseen, np.arange(len(unseen)), seed)
    return {
        "training_patients": len(training), "held_out_patients": len(unseen),
        "auc": {"value": auc, "low": low, "high": high}, "caught": caught(training, unseen, seed),
    }  # fmt: skip


def caught(training: np.ndarray, unseen: np.ndarray, seed: int) -> list[dict[str, float]]:
    """Share of training patients (numbers (P,)) whom an attack recognises at each of FALSE_ALARMS that patients suffice for.

    These lie below a number that at most the share `false_alarms` of the unseen patients (H,) undercut: `value` with a 95 %
    interval `low`, `high`, patients bootstrapped on both sides.
    """
    found = []
    for rate in FALSE_ALARMS:
        if rate * len(unseen) < 1:
            continue
        generator = np.random.default_rng(seed)
        members, strangers = (generator.choice(values, (DRAWS, len(values))) for values in (training, unseen))
        shares = _below(members, strangers, rate)
        found.append({
            "false_alarms": rate, "value": float(_below(training[None], unseen[None], rate)[0]),
            "low": float(np.quantile(shares, 0.025)), "high": float(np.quantile(shares, 0.975)),
        })  # fmt: skip
    return found


def patient_means(values: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Mean (P,) of each patient's views' values (N,), in the order of the sorted names."""
    _, member, counts = np.unique(patients, return_inverse=True, return_counts=True)
    return np.bincount(member, weights=values) / counts


def _below(training: np.ndarray, unseen: np.ndarray, rate: float) -> np.ndarray:
    """Share (draws,) of training patients' numbers (draws, P) below one that at most `rate` of the unseen patients'
    (draws, H) undercut."""
    allowed = math.floor(rate * unseen.shape[1] + 1e-9)
    return (training < np.sort(unseen, axis=1)[:, allowed, None]).mean(axis=1)
