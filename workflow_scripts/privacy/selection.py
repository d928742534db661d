"""Which checkpoint of the generator is used: not simply the last, since a long training ends in copies (Sec. 4.2)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import Record, read_rows


def read_measures(path: Path) -> list[dict[str, float]]:
    """The rows of a monitor.csv: finite numbers all."""
    rows: list[dict[str, float]] = []
    for number, row in enumerate(read_rows(path), start=1):
        try:
            values = Record({name: float(value) for name, value in row.items()}, path, "column")
        except (TypeError, ValueError):  # a short row has None, a long one a list
            values = None
        if values is None or not all(map(math.isfinite, values.values())):
            raise UserError(
                f"{path}, row {number}: {', '.join(map(str, row.values()))} are not all numbers; make it again"
            )
        rows.append(values)
    if not rows:
        raise UserError(f"{path} has no rows: no snapshot was measured")
    return rows


def choose(rows: Sequence[Mapping[str, float]], rule: str) -> tuple[int, str]:
    """The step that a rule chooses among the snapshots' rows, and why, in words.

    best: the last snapshot that is not past the lowest held-out denoising loss and copies no more than chance: the
    interval of its copies in excess of the control's reaches 0. Where there is none, as least_copying.
    least_copying: the smallest excess, and among equals the smallest Fréchet distance.
    """
    ordered = sorted(rows, key=lambda row: row["step"])
    if rule == "last":
        return int(ordered[-1]["step"]), "the last one"
    if rule == "best":
        lowest = min(ordered, key=lambda row: row["held_out_loss"])["step"]
        sound = [row for row in ordered if row["step"] <= lowest and row["excess_low"] <= 0]
        if sound:
            reason = f"the last one that copies no more than chance, up to the lowest held-out loss (step {lowest:.0f})"
            return int(sound[-1]["step"]), reason
    least = min(ordered, key=lambda row: (row["excess"], row["fid"]))
    reason = f"the least copying (excess {100 * least['excess']:.1f} points)"
    if rule == "best":
        reason += ", as every one up to the lowest held-out loss copies more than chance"
    return int(least["step"]), reason
