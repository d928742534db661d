"""The paper's claims, one by one, compared with the numbers of a run (paper, Sec. 3 and 5)."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from workflow_scripts.core.statistics import corrected_paired_test, holm
from workflow_scripts.core.tables import p_value
from workflow_scripts.finetuning.marker_heat import extra_heat, moved_heat
from workflow_scripts.study.paper import paper_rows
from workflow_scripts.tables.generation import change_at_equal_size, filtering_changes
from workflow_scripts.tables.reading import SCORED_ON, Comparison, condition, signed, with_sign
from workflow_scripts.tables.rows import Row
from workflow_scripts.tables.tables import backbones, paper_numbers, share_labels

if TYPE_CHECKING:
    import pandas as pd

ARMS = ("unaugmented", "full")
# From the worst for a claim of several comparisons to the best.
RESULTS = ("contradicted", "no verdict", "within noise", "confirmed")
UNTESTED = "not tested here"
PLACES = {
    "table1": "table 1",
    "table1_protocols": "table 1 by protocol",
    "table2": "table 2",
    "table3": "table 3",
    "table4": "table 4",
}


@dataclass(frozen=True)
class Claim:
    """A claim in plain words; the rows of the paper's `table` (keys), pair by pair, of which the first does better.

    `is_equality`: the rows of a pair are claimed to do the same.
    """

    text: str
    table: str
    pairs: tuple[tuple[str, str], ...]
    is_equality: bool = False


@dataclass(frozen=True)
class Finding:
    """What a run says of a claim: the texts of its line, and the comparisons that they rest on.

    `decisive`, position of the comparison that decides; None where nothing was compared.
    """

    claim: str
    paper: str
    compared: str
    difference: str
    result: str
    verdict: str
    comparisons: tuple[Comparison, ...] = ()
    decisive: int | None = None


CLAIMS = (
    Claim("Discarding suspicious labels helps", "table1", (("filtered", "complete"),)),
    Claim("Flipping suspicious labels helps", "table1", (("flipped", "complete"),)),
    Claim(
        "Three exceedances find suspicious labels better than four or five",
        "table1_protocols",
        tuple((policy, f"{policy}_x{n}") for policy in ("filtered", "flipped") for n in (4, 5)),
    ),
    Claim(
        "Pretraining beats starting from scratch",
        "table2",
        tuple((start, "scratch") for start in ("imagenet", "uscl", "ud_testicle", "ud_thyroid", "ud")),
    ),
    Claim("USCL's ultrasound pretraining stays below ImageNet's", "table2", (("imagenet", "uscl"),)),
    Claim(
        "Testicles alone pretrain as well as thyroids alone",
        "table2",
        (("ud_testicle", "ud_thyroid"),),
        is_equality=True,
    ),
    Claim("Pretraining on testicles and thyroids (UD) beats ImageNet", "table2", (("ud", "imagenet"),)),
    Claim(
        "Filtered synthetic views pretrain better than unfiltered ones",
        "table3",
        (("xgf", "xg"), ("thyroid_xgf", "thyroid_xg")),
    ),
    Claim(
        "Synthetic testicles pretrain about as well as real ones",
        "table3",
        (("xgf", "testicle"), ("thyroid_xgf", "testicle_thyroid")),
        is_equality=True,
    ),
    Claim(
        "Lambda 0.2 is the best weight of the organ loss",
        "table4",
        tuple(
            ("lambda_0_2", other) for other in ("lambda_0_0", "lambda_0_1", "lambda_0_3", "lambda_0_4", "l_sup_only")
        ),
    ),
)
FILTERING = "The manifold filter raises precision and lowers recall"
MARKERS = "Artificial markers draw attention, unless training was augmented with them"


def paired_comparison(
    first: Row, second: Row, predictions: Mapping[str, pd.DataFrame], holdout: str, pretraining_seeds: int = 1
) -> tuple[Comparison, str]:
    """Accuracy of `first` minus that of `second` (points), tested over the runs that they share, and its labels.

    On the labels that both share, else on the original ones (keys of `SCORED_ON`). The p value is not yet corrected.
    """
    labels = "policy" if share_labels((first, second), predictions) else "original"
    minuend, subtrahend = (run_accuracy(predictions[row.experiment], labels) for row in (first, second))
    seeds, folds = ({run[i] for run in minuend.index} for i in (0, 1))
    difference = 100 * (minuend - subtrahend)
    starts = backbones((first, second), difference.index.get_level_values("seed").to_numpy(), pretraining_seeds)
    test = corrected_paired_test(difference.to_numpy(), len(folds), starts)
    comparison = Comparison(
        first.name, second.name, test.difference, test.low, test.high, test.p,
        is_one_seed=len(seeds) == 1, condition=condition((first, second), holdout, pretraining_seeds),
    )  # fmt: skip
    return comparison, labels


def run_accuracy(predictions: pd.DataFrame, labels: str) -> pd.Series:
    """Accuracy of each run, as a share, by (seed, fold); on the policy's labels of kept views, or the original ones."""
    scored = predictions[predictions["kept"] == 1] if labels == "policy" else predictions
    is_right = scored["prediction"] == scored[f"label_{labels}"]
    return is_right.groupby([scored["seed"], scored["fold"]]).mean()


def better(comparison: Comparison) -> str:
    """Which of `RESULTS` holds for the claim that the first does better."""
    if not comparison.is_decided:
        return "no verdict"
    if not comparison.is_beyond_noise:
        return "within noise"
    return "confirmed" if comparison.difference > 0 else "contradicted"


def equal(comparison: Comparison, margin: float) -> str:
    """Which of `RESULTS` holds for the claim that both do the same, to within `margin` points.

    Confirmed if the interval lies within the margin, contradicted if it lies beyond it on one side.
    """
    if not comparison.is_decided:
        return "no verdict"
    if -margin < comparison.low and comparison.high < margin:
        return "confirmed"
    return "contradicted" if comparison.low > margin or comparison.high < -margin else "within noise"


def check_claims(
    numbers: Mapping[str, pd.DataFrame],
    rows: Mapping[str, Sequence[Row]],
    predictions: Mapping[str, pd.DataFrame],
    holdout: str,
    margin: float,
    shares: pd.DataFrame | None,
    pretraining_seeds: int = 1,
) -> list[Finding]:
    """What the run says of each claim, in the order of the paper.

    `numbers`: the tables' CSVs by table, `generation` among them; `rows`: the rows of the other tables; `predictions`:
    joined tables by experiment; `shares`: figure 5's shares of heat, if it was drawn. p values are Holm-corrected for all
    tests of accuracy.
    """
    tested: dict[Claim, list[tuple[Comparison, str]]] = {}
    for claim in CLAIMS:
        by_key = {row.paper: row for row in rows.get(claim.table, ())}
        pairs = [(by_key[a], by_key[b]) for a, b in claim.pairs if a in by_key and b in by_key]
        tested[claim] = [paired_comparison(a, b, predictions, holdout, pretraining_seeds) for a, b in pairs]
    superiority = [c for claim, found in tested.items() if not claim.is_equality for c, _ in found]
    corrected = iter(holm(np.array([c.p for c in superiority])))
    findings = []
    for claim, found in tested.items():
        # An equality is not tested against 0: its p value would answer another question.
        found = [(replace(c, p=math.nan if claim.is_equality else float(next(corrected))), on) for c, on in found]
        repeated = {row.paper for row in rows.get(claim.table, ())}
        findings.append(_finding(claim, found, repeated, numbers.get(claim.table), margin))
    findings.insert(-1, check_filtering(numbers.get("generation"), holdout))
    findings.append(check_markers(shares, predictions))
    return findings


def check_filtering(generation: pd.DataFrame | None, holdout: str) -> Finding:
    """Precision up and recall down after filtering: differences of the means over the reference batches (percent).

    A mean carries the standard deviation s over its batches; a difference counts where it exceeds twice the root of the
    two s² together.
    """
    metrics = ("precision", "recall")
    paper = {m: paper_numbers("generation")[f"{m}_mean"].to_dict() for m in metrics}
    told = "; ".join(f"{m} {paper[m]['unfiltered']:.2f} → {paper[m]['filtered']:.2f}" for m in metrics)
    if generation is None or not {"unfiltered", "filtered"} <= set(generation["name"]):
        return _untested(FILTERING, told, "needs the generation table")
    found, parts = filtering_changes(generation), []
    for metric, change in zip(metrics, found, strict=True):
        equal = change_at_equal_size(generation, metric)
        at_equal = f", at equal size {with_sign(equal)}" if equal == equal else ""
        parts.append(f"{metric} {difference_text(change)}{at_equal}")
    precision, recall = found
    lower = replace(recall, difference=-recall.difference, low=-recall.high, high=-recall.low)
    rests_on = "conditional on one generator" if holdout == "none" else ""
    return _judged(
        FILTERING, told, "generated views, filtered against unfiltered", "; ".join(parts), (precision, recall),
        [better(precision), better(lower)], rests_on,
    )  # fmt: skip


def check_markers(shares: pd.DataFrame | None, predictions: Mapping[str, pd.DataFrame]) -> Finding:
    """Whether drawing markers moves more heat onto them without augmentation than with it (figure 5).

    The interval redraws the patients, whom the predictions know by view.
    """
    told = "figure 5, two views, no numbers"
    if shares is None or not predictions or not set(ARMS) <= set(shares["arm"]):
        return _untested(MARKERS, told, "figure 5 was not drawn")
    moved = moved_heat(shares)
    views = next(iter(predictions.values())).drop_duplicates("view_id").set_index("view_id")["patient_id"]
    extra = extra_heat(moved, views, *ARMS)
    if extra is None:  # a network that hardly learned can have no positive gradient anywhere, thus no heat
        return _untested(MARKERS, told, "no view of figure 5 has heat in both arms")
    comparison = Comparison(*ARMS, extra.difference, extra.low, extra.high, math.nan)
    by_arm = moved.dropna(subset=list(ARMS))
    means = [f"{arm} {with_sign(float(by_arm[arm].mean()))}" for arm in shares["arm"].unique()]
    compared = (
        f"share of Grad-CAM++ heat that moves onto drawn markers, {extra.views} test views of {extra.patients} patients"
    )
    return _judged(
        MARKERS, told, compared, f"{difference_text(comparison)} ({'; '.join(means)})", (comparison,),
        [better(comparison)], "conditional on one network per arm",
    )  # fmt: skip


def _finding(
    claim: Claim,
    found: Sequence[tuple[Comparison, str]],
    repeated: Collection[str],
    numbers: pd.DataFrame | None,
    margin: float,
) -> Finding:
    """The line of a claim; `repeated` are the rows of the paper's table that the run repeats."""
    keys, printed_names = list(dict.fromkeys(key for pair in claim.pairs for key in pair)), paper_rows(claim.table)
    printed = paper_numbers(claim.table).get("accuracy_mean")
    told = (
        "no numbers printed"
        if printed is None
        else "; ".join(f"{printed_names[key]} {printed[key]:.2f}" for key in keys)
    )
    place = PLACES[claim.table]
    if not found or numbers is None:
        return _untested(claim.text, told, f"{place} would need the rows {_quoted([printed_names[k] for k in keys])}")
    missing = [printed_names[key] for key in keys if key not in repeated]
    labels = list(dict.fromkeys(SCORED_ON[on] for _, on in found))
    compared = f"accuracy {' or '.join(labels)}, {place}" + (f"; not here: {_quoted(missing)}" if missing else "")
    own = numbers.set_index("name")["accuracy_mean"]
    parts = []
    for comparison, on in found:
        text = f"{comparison.name} against {comparison.reference}: {difference_text(comparison)}"
        if on == "original":
            bookkeeping = float(own[comparison.name] - own[comparison.reference])
            text += f"; {with_sign(bookkeeping)} on each row's own labels"
        parts.append(text)
    judge: Callable[[Comparison], str] = (lambda c: equal(c, margin)) if claim.is_equality else better
    comparisons = tuple(c for c, _ in found)
    rests_on = list(dict.fromkeys(c.condition for c in comparisons if c.condition))
    return _judged(
        claim.text, told, compared, "; ".join(parts), comparisons, [judge(c) for c in comparisons],
        "; ".join(rests_on), margin if claim.is_equality else None, bool(missing),
    )  # fmt: skip


def _judged(
    claim: str,
    paper: str,
    compared: str,
    difference: str,
    comparisons: tuple[Comparison, ...],
    results: Sequence[str],
    rests_on: str,
    margin: float | None = None,
    is_partial: bool = False,
) -> Finding:
    """A claim holds if all its comparisons confirm it, and fails if one contradicts it; wording by fixed rules."""
    decisive = min(range(len(results)), key=lambda i: (RESULTS.index(results[i]), comparisons[i].low))
    result = results[decisive]
    if result == "no verdict":
        why = "one seed" if comparisons[decisive].is_one_seed else "no interval"
        verdict = f"no verdict: {why}"
    elif result == "within noise":
        held = results.count("confirmed")
        verdict = "within noise"
        verdict += f": neither closer than ±{margin:g} points nor further apart" if margin is not None else ""
        verdict += f" ({held} of {len(results)} comparisons confirm it)" if len(results) > 1 else ""
    else:
        meaning = {"confirmed": "the claim", "contradicted": "the opposite"}[result]
        verdict = f"{result}: consistent with {meaning}, {rests_on}" if rests_on else result
        verdict += ", for the rows that are here" if is_partial and result == "confirmed" else ""
    return Finding(claim, paper, compared, difference, result, verdict, comparisons, decisive)


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"“{name}”" for name in names)


def _untested(claim: str, paper: str, why: str) -> Finding:
    return Finding(claim, paper, why, "–", UNTESTED, UNTESTED)


def difference_text(comparison: Comparison) -> str:
    """`+4.69 (−7.59 to 16.96), p 0.726`; without what does not exist."""
    interval = "" if math.isnan(comparison.low) else f" ({signed(comparison.low)} to {signed(comparison.high)})"
    return (
        with_sign(comparison.difference)
        + interval
        + ("" if math.isnan(comparison.p) else f", p {p_value(comparison.p)}")
    )
