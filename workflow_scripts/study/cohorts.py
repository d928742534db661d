"""Cohorts: what one generator and one encoder may see.

With `holdout: none` there is one cohort, all patients; its folder is the artefact's own (an empty path segment). With
`holdout: per_fold` there is one per seed and fold, `seed<s>_fold<f>/`, which leaves the patients of that fold out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def cohorts(config: Mapping[str, Any]) -> list[str]:
    """The path segments of the study's cohorts."""
    if config["holdout"] == "none":
        return [""]
    return [f"seed{seed}_fold{fold}/" for seed in config["seeds"] for fold in range(config["folds"])]


def left_out(cohort: str) -> tuple[int, int] | None:
    """Seed and fold that a cohort's path segment leaves out, None where it leaves out nobody."""
    match = re.fullmatch(r"seed(\d+)_fold(\d+)/", cohort)
    return (int(match[1]), int(match[2])) if match else None
