"""Label policies: how suspicious labels and a clinician's decisions become a label set (paper, Sec. 3)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_rows, read_spreadsheet, write_rows
from workflow_scripts.core.log import say

LABEL_COLUMNS = ("view_id", "label", "keep")
POLICIES = ("filtered", "flipped", "reviewed")
DECISIONS = ("keep", "flip", "discard", "unsure")
# The review page puts an apostrophe before text that a spreadsheet would take for a formula.
_GUARDED = re.compile(r"^'(?=[=+\-@\t\r\n'])")
# What the paper does with the suspicious views under each of its two policies.
_ON_SUSPICION = {"filtered": "discard", "flipped": "flip"}

Row = Mapping[str, str]


def decisions_of_votes(policy: str, votes: Iterable[Row]) -> dict[str, str]:
    """Decision per suspicious view under the policy `filtered` or `flipped`, from the rows of votes.csv.

    Raises `UserError` on another policy.
    """
    if policy not in _ON_SUSPICION:
        raise UserError(f"--policy {policy} does not follow from votes; use {' or '.join(_ON_SUSPICION)}")
    return {row["view_id"]: _ON_SUSPICION[policy] for row in votes if row["suspicious"] == "1"}


def read_votes(path: Path, complete: Iterable[Row], source: Path) -> list[dict[str, str]]:
    """The rows of votes.csv, which must be of the views of `complete`, the labels in the file `source`; else `UserError`."""
    votes = read_rows(path, "votes")
    require_same_views({row["view_id"] for row in votes}, {row["view_id"] for row in complete}, path, source)
    return votes


def require_same_views(first: set[str], second: set[str], first_file: Path, second_file: Path) -> None:
    """Raise `UserError` where one of two files has a view that the other lacks."""
    if apart := first ^ second:
        raise UserError(
            f"{first_file} and {second_file} are not of the same views: only one of them has {min(apart)}; one of the two is "
            "out of date"
        )


def rows_of_clinician(rows: Iterable[Row], source: str) -> list[dict[str, str]]:
    """The rows of a clinician's file as they were meant, checked; `source` names the file in messages.

    A spreadsheet's byte-order mark and the review page's guard against formulas (an apostrophe before `=`, `+`, `-`,
    `@`) are taken off. Only view_id and decision are needed; further columns stay. Raises `UserError` on missing
    columns, on unknown decisions and on views that are decided twice.
    """
    checked: list[dict[str, str]] = []
    seen: set[str] = set()
    for line, raw in enumerate(rows, start=2):
        row = {key.lstrip("\ufeff"): _GUARDED.sub("", value or "") for key, value in raw.items() if key is not None}
        if not {"view_id", "decision"} <= set(row):
            raise UserError(
                f"{source}: it needs the columns view_id and decision, separated by commas; "
                f"its first line reads {', '.join(row)}"
            )
        view, decision = row["view_id"], row["decision"]
        if decision not in DECISIONS:
            raise UserError(
                f"{source}, line {line}: decision {decision!r} of {view} is not one of {', '.join(DECISIONS)}"
            )
        if view in seen:
            raise UserError(f"{source}, line {line}: {view} is decided twice; keep one line per view")
        seen.add(view)
        checked.append(row)
    return checked


def read_decisions(path: Path) -> list[dict[str, str]]:
    """The rows of a clinician's file, as the review page, Excel or Numbers saved it, as `rows_of_clinician` gives them.

    Raises `UserError`, too, where it holds no decision: the label set would be the original labels.
    """
    rows = rows_of_clinician(read_spreadsheet(path), str(path))
    if not rows:
        raise UserError(f"{path} holds no decision; export it from the review page again")
    return rows


def decisions_of_clinician(rows: Iterable[Row], source: str) -> dict[str, str]:
    """Decision per view from the rows (view_id, decision) of a clinician's file; `source` names it in messages."""
    return {row["view_id"]: row["decision"] for row in rows_of_clinician(rows, source)}


def require_reviewed_labels(rows: Iterable[Row], complete: Iterable[Row], source: str) -> None:
    """Raise `UserError` where a decision was made on another label than the original one of today.

    `keep` and `flip` mean something only beside the label that the reviewer judged. `rows` are `rows_of_clinician`'s;
    those without the column `label`, as in a file written manually, are not checked.
    """
    labels = {row["view_id"]: row["label"] for row in complete}
    for row in rows:
        now = labels.get(row["view_id"])
        if row.get("label") and now is not None and row["label"] != now:
            raise UserError(
                f"{source}: {row['view_id']} was reviewed under the label {row['label']!r}, but is labelled {now!r} "
                "now; make the review page again and decide the views that have changed"
            )


def apply_decisions(
    complete: Sequence[Row], decisions: Mapping[str, str], classes: Sequence[str], source: str
) -> list[dict[str, str]]:
    """The label set that follows from decisions: `flip` swaps the label, `discard` sets keep 0, others change nothing.

    A discarded view stays in the set with its label, since it is predicted all the same. `complete` are the original
    rows (view_id, label, keep); `classes` the two names. Raises `UserError` on views that do not exist (named as in
    `source`) and on labels that are not a class.
    """
    known = {row["view_id"] for row in complete}
    unknown = [view for view in decisions if view not in known]
    if unknown:
        raise UserError(
            f"{source}: {len(unknown)} of its views are not among the labelled ones: {', '.join(unknown[:5])}"
            f"{' …' if len(unknown) > 5 else ''}. View ids look like {next(iter(known), 'image#view')}"
        )
    other = {classes[0]: classes[1], classes[1]: classes[0]}
    rows = []
    for row in complete:
        if row["label"] not in other:
            raise UserError(
                f"view {row['view_id']} has the label {row['label']!r}; the classes are {' and '.join(classes)}"
            )
        decision = decisions.get(row["view_id"], "keep")
        label = other[row["label"]] if decision == "flip" else row["label"]
        rows.append({"view_id": row["view_id"], "label": label, "keep": "0" if decision == "discard" else row["keep"]})
    return rows


def write_decided(
    complete: Sequence[Mapping[str, str]], decisions: Mapping[str, str], policy: str, classes: Sequence[str], source: Path,
    output: Path,
) -> None:  # fmt: skip
    """Apply decisions (view_id -> decision) to the original labels, say how many change, write the label set.

    `source` is the file that the decisions come from, for messages.
    """
    labels = apply_decisions(complete, decisions, classes, str(source))
    discarded = sum(row["keep"] == "0" for row in labels)
    flipped = sum(new["label"] != old["label"] for new, old in zip(labels, complete, strict=True))
    unsure = sum(decision == "unsure" for decision in decisions.values())
    say(
        f"{policy}: of {len(labels)} views {discarded} left out, {flipped} flipped"
        + (f", {unsure} unsure, whose label stays" if unsure else "")
    )
    write_rows(labels, LABEL_COLUMNS, output)
