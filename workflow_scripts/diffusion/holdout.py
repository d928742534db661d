"""Which patients the generator never sees."""

from __future__ import annotations

import math
from collections.abc import Mapping

from workflow_scripts.errors import UserError
from workflow_scripts.training.randomness import philox


def choose_holdout(labels: Mapping[str, str], share: float, seed: int) -> list[str]:
    """Sorted patients, `share` of them (at least one if it is above 0), in proportion to their labels.

    labels: each patient's label; any text that tells the strata apart. A function of (labels, share, seed).
    """
    if not 0 <= share <= 0.5:
        raise UserError(f"the held-out share must lie between 0 and 0.5, not {share}")
    if share == 0:
        return []
    if len(labels) < 2:
        raise UserError(
            f"{len(labels)} patients: there must be two at least to hold one out; set holdout_patients to 0"
        )
    strata: dict[str, list[str]] = {}
    for patient in sorted(labels):
        strata.setdefault(labels[patient], []).append(patient)
    total = max(1, math.floor(share * len(labels) + 0.5))
    # Largest remainders: whole quotas first, then one more where most is missing.
    quotas = {label: total * len(patients) / len(labels) for label, patients in strata.items()}
    counts = {label: math.floor(quota) for label, quota in quotas.items()}
    missing = sorted(strata, key=lambda label: (counts[label] - quotas[label], label))
    for label in missing[: total - sum(counts.values())]:
        counts[label] += 1
    chosen = []
    for label, patients in strata.items():
        order = philox(seed, f"holdout/{label}").permutation(len(patients))
        chosen += [patients[position] for position in order[: counts[label]]]
    return sorted(chosen)
