"""Label policies: what becomes of the views that the audit or a clinician doubts (paper, Sec. 3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from workflow_scripts.errors import UserError

LABEL_COLUMNS = ("view_id", "label", "keep")
POLICIES = ("filtered", "flipped", "reviewed")
DECISIONS = ("keep", "flip", "discard")
# What the paper does with the suspicious views under each of its two policies.
_ON_SUSPICION = {"filtered": "discard", "flipped": "flip"}

Row = Mapping[str, str]


def decisions_of_votes(policy: str, votes: Iterable[Row]) -> dict[str, str]:
    """Decision per suspicious view under the policy `filtered` or `flipped`, from the rows of votes.csv."""
    return {row["view_id"]: _ON_SUSPICION[policy] for row in votes if row["suspicious"] == "1"}


def decisions_of_clinician(rows: Iterable[Row], source: str) -> dict[str, str]:
    """Decision per view from the rows (view_id, decision) of a clinician's file; `source` names it in messages."""
    decisions: dict[str, str] = {}
    for line, row in enumerate(rows, start=2):
        view, decision = row.get("view_id"), row.get("decision")
        if view is None or decision is None:
            raise UserError(f"{source}: it needs the columns view_id and decision")
        if decision not in DECISIONS:
            raise UserError(f"{source}, line {line}: decision {decision!r} of {view} is none of {', '.join(DECISIONS)}")
        if view in decisions:
            raise UserError(f"{source}, line {line}: {view} is decided twice; keep one line per view")
        decisions[view] = decision
    return decisions


def apply_decisions(
    complete: Sequence[Row], decisions: Mapping[str, str], classes: Sequence[str], source: str
) -> list[dict[str, str]]:
    """The label set that follows from decisions: `keep` changes nothing, `flip` swaps the label, `discard` sets keep 0.

    A discarded view stays in the set with its label, since it is predicted all the same. `complete` are the original
    rows (view_id, label, keep); `classes` the two names. Raises `UserError` on views that do not exist (named as in
    `source`) and on labels that are no class.
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
