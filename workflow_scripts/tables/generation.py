"""The generation table: how close the generated sets come to the real views (paper, Sec. 4.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.tables import Table, plus_minus
from workflow_scripts.tables.aggregation import mean_and_std
from workflow_scripts.tables.reading import Comparison, with_sign
from workflow_scripts.tables.tables import HOLDOUTS

if TYPE_CHECKING:
    import pandas as pd

# Names of the sets as printed; sets that are not named here follow under their own name.
SETS = {
    "unfiltered": "generated, unfiltered",
    "filtered": "generated, filtered",
    "real": "real, held-out patients",
    "unfiltered_equal": "unfiltered, equal size",
    "filtered_equal": "filtered, equal size",
    "unfiltered_published": "unfiltered, published activations",
    "filtered_published": "filtered, published activations",
}
# Shares, printed in percent; everything else keeps its unit.
SHARES = ("precision", "recall", "density", "coverage")
KERNEL_DISTANCES = {"kid": "KID", "mmd": "Squared MMD with a Gaussian kernel"}
SHOWN = {"precision": "precision", "recall": "recall", "fid": "FID"}


def generation_numbers(metrics: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Numbers of the sets, one row each.

    `metrics` are the tables set, metric, batch, value of one or more generators. `<metric>_mean`, `<metric>_std`: over
    the numbered reference batches of all generators (std n - 1), shares in percent; `<metric>_all`: all real views as
    one reference, averaged over the generators; `size`: views of the set, averaged over the generators.
    """
    import pandas as pd

    table = pd.concat([part[["set", "metric", "batch", "value"]] for part in metrics], ignore_index=True)
    if "filtered" not in set(table["set"]):
        raise UserError(f"the metrics name the sets {', '.join(sorted(set(table['set'])))}; filtered is needed")
    names = [name for name in SETS if name in set(table["set"])]
    names += [name for name in table["set"].unique() if name not in SETS]
    rows = []
    for name in names:
        mine = table[table["set"] == name]
        row: dict[str, object] = {"name": name}
        for metric in (metric for metric in mine["metric"].unique() if metric != "size"):
            values = mine[mine["metric"] == metric]
            scale = 100 if metric in SHARES else 1
            in_batches = values["batch"].notna()
            if in_batches.any():
                mean, std = mean_and_std(scale * values["value"][in_batches].to_numpy())
                row |= {f"{metric}_mean": mean, f"{metric}_std": std}
            if not in_batches.all():
                row[f"{metric}_all"] = scale * float(values["value"][~in_batches].mean())
        sizes = mine[mine["metric"] == "size"]["value"]
        row["size"] = float(sizes.mean()) if len(sizes) else float("nan")
        rows.append(row)
    return pd.DataFrame(rows)


def filtering_changes(values: pd.DataFrame) -> list[Comparison]:
    """Precision and recall of the filtered set minus those of the unfiltered one, in points.

    `values` as `generation_numbers` returns them. A mean carries the standard deviation s over its reference batches;
    the band is twice the root of the two s² together.
    """
    found = []
    for metric in ("precision", "recall"):
        change = _number(values, "filtered", f"{metric}_mean") - _number(values, "unfiltered", f"{metric}_mean")
        band = 2 * math.hypot(*(_number(values, name, f"{metric}_std") for name in ("filtered", "unfiltered")))
        found.append(Comparison("filtered", "unfiltered", change, change - band, change + band, math.nan))
    return found


def change_at_equal_size(values: pd.DataFrame, metric: str) -> float:
    """The same change between random subsamples of equal size, in points; NaN without them."""
    if not {"unfiltered_equal", "filtered_equal"} <= set(values["name"]):
        return math.nan
    filtered, unfiltered = (_number(values, f"{name}_equal", f"{metric}_mean") for name in ("filtered", "unfiltered"))
    return filtered - unfiltered


def _number(values: pd.DataFrame, name: str, column: str) -> float:
    return float(values.loc[values["name"] == name, column].iloc[0])


def _critical_sentence(values: pd.DataFrame, generators: int) -> str:
    """What the change by filtering allows us to say: against the spread over reference batches, and at equal size."""
    parts = []
    for metric, change in zip(("precision", "recall"), filtering_changes(values), strict=True):
        where = "beyond" if change.excludes_zero else "within"
        spread = f"{where} the spread over reference batches" if change.low == change.low else "no spread is known"
        equal = change_at_equal_size(values, metric)
        at_equal = f"; at equal size {with_sign(equal)}" if equal == equal else ""
        parts.append(f"{metric} by {with_sign(change.difference)} points ({spread}{at_equal})")
    rests_on = "; conditional on one generator" if generators == 1 else ""
    return f"Critical reading: filtering changes {' and '.join(parts)}{rests_on}."


def _whole_set_notes(values: pd.DataFrame, generators: int) -> list[str]:
    """FID extrapolated, and the kernel distances with their intervals, of the sets that have them."""
    notes = []
    if "fid_infinity_all" in values:
        parts = [
            f"{row['name']} {row['fid_infinity_all']:.2f}" for _, row in values.iterrows() if _has(row, "fid_infinity")
        ]
        notes.append(
            f"FID of infinitely many generated views, extrapolated, against all real views: {', '.join(parts)}."
        )
    for metric, title in KERNEL_DISTANCES.items():
        if f"{metric}_all" not in values:
            continue
        parts = []
        for _, row in values.iterrows():
            if _has(row, metric) and not row["name"].endswith("_equal"):
                # The mean of several generators' limits is no interval.
                known = generators == 1 and f"{metric}_low_all" in row and _has(row, f"{metric}_low")
                interval = f" ({row[f'{metric}_low_all']:.3g} to {row[f'{metric}_high_all']:.3g})" if known else ""
                parts.append(f"{row['name']} {row[f'{metric}_all']:.3g}{interval}")
        bounds = "; 95 % intervals over patients in brackets" if any("(" in part for part in parts) else ""
        notes.append(f"{title} against all real views: {', '.join(parts)}{bounds}.")
    return notes


def _has(row: pd.Series, metric: str) -> bool:
    return bool(row[f"{metric}_all"] == row[f"{metric}_all"])


def generation_layout(
    values: pd.DataFrame,
    batches: int,
    generators: int,
    generated: int,
    kept: int,
    holdout: str,
    made: Sequence[str],
    origin: str,
) -> Table:
    """The paper's layout: set, precision, recall, FID, size; the paper's numbers beside it where `values` has them.

    `batches` reference batches per generator; the filter kept `kept` of `generated` views of all generators; `holdout` is
    the protocol, none or per_fold; `made` are sentences on how the sets were made.
    """
    shown = {key: title for key, title in SHOWN.items() if f"{key}_mean" in values}
    paper = [key for key in shown if f"paper_{key}_mean" in values]
    header = ["set", *shown.values(), "size", *(f"{SHOWN[key]} (paper)" for key in paper)]
    rows = []
    for _, value in values.iterrows():
        size = "–" if value["size"] != value["size"] else f"{value['size']:.0f}"
        cells = [plus_minus(value[f"{key}_mean"], value[f"{key}_std"]) for key in shown]
        ours = [SETS.get(value["name"], value["name"]), *cells, size]
        rows.append((*ours, *(plus_minus(value[f"paper_{key}_mean"], value[f"paper_{key}_std"]) for key in paper)))
    names = list(values["name"])
    of_each = "" if generators == 1 else f" for each of {generators} generators (one per seed and fold)"
    notes = [
        "Precision and recall in percent (k nearest neighbours, Eq. 5-6), FID (Eq. 7). Mean ± std (n − 1) over "
        f"{batches} disjoint reference batches of real views{of_each}, each against the whole set.",
        f"{HOLDOUTS[holdout]}.",
        *made,
        f"The manifold filter kept {kept} of {generated} generated views ({kept / generated:.1%})."
        if "unfiltered" in names
        else f"The {generated} views were filtered before they came; there is no unfiltered set.",
        "These metrics depend on the sizes of both sides: compare rows of different size with care; the rows of equal "
        "size are random subsamples. Recall is high for a generator that copies.",
    ]
    if "real" in names:
        notes.append(
            "The row of real views of patients that the generator never saw is what perfect samples would score."
        )
    if "filtered_published" in names:
        notes.append(
            "Rows of published activations: the same generated views against the features of real views that others "
            "computed and published (embedding.published_activations) instead of this study's."
        )
    notes += _whole_set_notes(values, generators)
    if "unfiltered" in names:
        notes.append(_critical_sentence(values, generators))
    return Table(
        label="generation",
        title="Generated views against real ones",
        header=tuple(header),
        rows=tuple(rows),
        text_columns=1,
        notes=tuple(notes),
        rules=tuple(
            min(i for i, name in enumerate(names) if name.endswith(end))
            for end in ("real", "_equal", "_published")
            if any(name.endswith(end) for name in names)
        ),
        origin=origin,
    )
