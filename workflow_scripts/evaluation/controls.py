"""A control for cleaned labels: as many changes, but at random."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

Row = Mapping[str, str]


def random_decisions(decisions: Mapping[str, str], complete: Sequence[Row], seed: int) -> dict[str, str]:
    """Decisions of the same number, kinds and class mix as `decisions` (view_id -> decision) on views drawn at random.

    `complete` are the original labels (view_id, label). For each class the views are drawn without replacement from all
    of that class, those that were decided among them.
    """
    draw = random.Random(seed)
    views: dict[str, list[str]] = {}
    wanted: dict[str, list[str]] = {}
    for row in complete:
        views.setdefault(row["label"], []).append(row["view_id"])
        if row["view_id"] in decisions:
            wanted.setdefault(row["label"], []).append(decisions[row["view_id"]])
    return {
        view: decision
        for label, kinds in wanted.items()
        for view, decision in zip(draw.sample(sorted(views[label]), len(kinds)), kinds, strict=True)
    }
