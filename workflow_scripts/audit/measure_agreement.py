"""Compare a clinician's decisions with the original and with the flipped labels: Cohen's kappa (paper, Sec. 3).

On the suspicious views, on the controls and on all of them; views that she discarded or was unsure about are left out
and counted. The 95 % interval redraws the patients.

    python -m workflow_scripts.audit.measure_agreement --decisions decisions.csv --complete labels/complete.csv \\
        --flipped labels/flipped.csv --votes audit/votes.csv --index views/labelled.csv \\
        --classes homogeneous inhomogeneous --output-agreement audit/agreement.csv
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from workflow_scripts.audit.labels import apply_decisions, read_decisions, require_reviewed_labels
from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_rows, write_rows
from workflow_scripts.core.log import say
from workflow_scripts.core.statistics import percentile_interval, redraws
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser

# Decisions that do not say which class a view shows.
LEFT_OUT = ("unsure", "discard")
SETS = ("suspicious", "controls", "all")
COLUMNS = ("set", "against", "views", "unsure", "discarded", "kappa", "low", "high", "agreement")


@dataclass(frozen=True)
class Agreement:
    """Agreement of the reviewer with one label set on one set of views; NaN where there is none.

    `views` are compared; `unsure` and `discarded` ones are not. `kappa` is Cohen's, between `low` and `high` with 95 %
    confidence; `agreement` is the share of views on which both say the same. `constant` names who gave every view the
    same class: kappa is then 0 whatever the other says, or undefined where both did.
    """

    set: str
    against: str
    views: int
    unsure: int
    discarded: int
    kappa: float
    low: float
    high: float
    agreement: float
    constant: tuple[str, ...] = ()

    @property
    def row(self) -> dict[str, object]:
        """The row of agreement.csv; what does not exist is an empty cell."""
        values = asdict(self)
        del values["constant"]
        return {key: "" if value != value else value for key, value in values.items()}

    @property
    def sentence(self) -> str:
        """The row in words."""
        left_out = f" ({self.unsure} unsure and {self.discarded} discarded left out)"
        start = f"{self.set}, against the {self.against} labels: "
        if self.views == 0:
            return f"{start}no view to compare{left_out}"
        start += f"{self.views} views{left_out}, {100 * self.agreement:.0f} % agree, "
        if self.kappa != self.kappa:
            return f"{start}kappa is undefined, since both say the same class throughout"
        words = f"{start}kappa {self.kappa:.2f}"
        if self.low == self.low:
            words += f" [{self.low:.2f}, {self.high:.2f}]"
        if self.constant:
            words += f"; it says nothing here, since {self.constant[0]} gave all views the same class"
        return words


def kappa(first: np.ndarray, second: np.ndarray) -> float:
    """Cohen's kappa of two readings, bool (N,); NaN where both say the same class throughout."""
    from sklearn.metrics import cohen_kappa_score

    with warnings.catch_warnings():  # its warnings say that one class only was given; so does the NaN
        warnings.simplefilter("ignore")
        return float(cohen_kappa_score(first, second, labels=[False, True]))


def kappa_interval(
    first: np.ndarray, second: np.ndarray, patients: np.ndarray, draws: int = 10_000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of Cohen's kappa under redrawing the patients with replacement, with all their views.

    `first`, `second` bool (N,), `patients` (N,) who each view shows. NaN where fewer than two patients are seen; draws
    whose kappa is undefined do not count.
    """
    nan = float("nan")
    names, patient = np.unique(patients, return_inverse=True)
    if len(names) < 2:
        return nan, nan
    tables = np.zeros((len(names), 4))
    np.add.at(tables, (patient, 2 * first.astype(int) + second.astype(int)), 1)
    times = np.concatenate(list(redraws(len(names), draws, seed)))
    neither, only_second, only_first, both = (times @ tables).T
    total = neither + only_second + only_first + both
    chance = (both + only_first) * (both + only_second) + (neither + only_second) * (neither + only_first)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = (total * (neither + both) - chance) / (total**2 - chance)
    if np.isnan(values).all():
        return nan, nan
    return percentile_interval(values, level)


def reviewer_agreement(
    decisions: Mapping[str, str],
    complete: Sequence[Mapping[str, str]],
    flipped: Mapping[str, str],
    suspicious: Mapping[str, bool],
    patients: Mapping[str, str],
    classes: Sequence[str],
    source: str,
) -> list[Agreement]:
    """Agreement on the suspicious views, the controls and all, each against the original and the flipped labels.

    `decisions` per view (keep, flip, discard, unsure) make the reviewer's labels from those of `complete` (rows
    view_id, label, keep); `flipped`, `suspicious` and `patients` are given by view. Raises `UserError` as
    `apply_decisions` does, which names the file as `source`.
    """
    reviewed = {row["view_id"]: row["label"] for row in apply_decisions(complete, decisions, classes, source)}
    original = {row["view_id"]: row["label"] for row in complete}
    results = []
    for name in SETS:
        members = [view for view in decisions if name == "all" or suspicious[view] == (name == "suspicious")]
        read = [view for view in members if decisions[view] not in LEFT_OUT]
        counts = {choice: sum(decisions[view] == choice for view in members) for choice in LEFT_OUT}
        reader = np.array([reviewed[view] == classes[1] for view in read], dtype=bool)
        people = np.array([patients[view] for view in read], dtype=object)
        for against, labels in (("original", original), ("flipped", flipped)):
            other = np.array([labels[view] == classes[1] for view in read], dtype=bool)
            results.append(_compare(name, against, reader, other, people, counts))
    return results


def _compare(
    name: str, against: str, reader: np.ndarray, other: np.ndarray, people: np.ndarray, counts: Mapping[str, int]
) -> Agreement:
    nan = float("nan")
    value, low, high, share = nan, nan, nan, nan
    if len(reader):
        value, share = kappa(reader, other), float((reader == other).mean())
    if value == value:
        low, high = kappa_interval(reader, other, people)
    who = {"the reviewer": reader, f"the {against} label set": other}
    constant = tuple(title for title, reading in who.items() if reading.all() or not reading.any())
    unsure, discarded = counts["unsure"], counts["discard"]
    return Agreement(name, against, len(reader), unsure, discarded, value, low, high, share, constant)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "decisions complete flipped votes index")
    add_outputs(parser, "agreement")
    add_parameters(parser, "classes")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, compare, write."""
    if not arguments.decisions.is_file():
        raise UserError(f"{arguments.decisions} does not exist")
    source = str(arguments.decisions)
    rows, complete = read_decisions(arguments.decisions), read_rows(arguments.complete, "complete")
    require_reviewed_labels(rows, complete, source)
    tables = {name: read_rows(getattr(arguments, name), name) for name in ("flipped", "votes", "index")}
    for name, table in tables.items():
        missing = {row["view_id"] for row in complete} - {row["view_id"] for row in table}
        if missing:
            raise UserError(
                f"{getattr(arguments, name)} lacks {len(missing)} views of {arguments.complete}, for example "
                f"{min(missing)}; one of the two is out of date"
            )
    results = reviewer_agreement(
        {row["view_id"]: row["decision"] for row in rows},
        complete,
        {row["view_id"]: row["label"] for row in tables["flipped"]},
        {row["view_id"]: row["suspicious"] == "1" for row in tables["votes"]},
        {row["view_id"]: row["patient_id"] for row in tables["index"]},
        arguments.classes,
        source,
    )
    for result in results:
        say(result.sentence)
    if any("blind" in row for row in rows):
        seen = sum(row.get("blind") != "1" for row in rows)
        say(f"{seen} of the {len(rows)} decisions were made after the view's label had been shown")
    write_rows([result.row for result in results], COLUMNS, arguments.output_agreement)


if __name__ == "__main__":
    run(main, parser())
