"""The findings of the shortcut audit as a table, a sentence and a clause."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from workflow_scripts.audit.shortcuts import FOLDS, PERMUTATIONS, TITLES, Finding
from workflow_scripts.core.files import read_csv
from workflow_scripts.core.tables import Table, number, p_value

ALARM = 0.05


def read_findings(path: Path) -> list[Finding]:
    """The findings of a table that `find_shortcuts` has written."""
    values = read_csv(path)
    return [Finding(*row) for row in values[[field.name for field in fields(Finding)]].itertuples(index=False)]


def is_alarm(finding: Finding) -> bool:
    """Whether the label can be told, at 5 % for all tests together; False for what was not tested."""
    return finding.p_corrected <= ALARM


def warning(findings: Sequence[Finding], positive: str) -> str:
    """What the tests found, in a sentence, and what it means."""
    if not any(finding.features for finding in findings):
        return (
            "Shortcuts were not tested: all patients have the same label, or nothing but tissue differs between them."
        )
    found = told_from(findings, positive)
    if not found:
        return f"No shortcut found: whether a patient is {positive} cannot be told from what is no tissue better than by chance."
    return (
        f"Warning: {found}. A network may learn this instead of anatomy; compare its AUROC with these, and test it on another "
        "scanner or centre."
    )


def told_from(findings: Sequence[Finding], positive: str) -> str:
    """From what the label can be told, as a clause; empty where no test raises an alarm."""
    alarms = "; ".join(
        f"{TITLES[each.test]} (AUROC {each.auroc:.2f}, p {p_text(p_value(each.p_corrected))})"
        for each in findings
        if is_alarm(each)
    )
    return f"whether a patient is {positive} can be told from what is no tissue: {alarms}" if alarms else ""


def p_text(printed: str) -> str:
    """A printed p value after the letter p: `< 0.001`, `= 0.012`."""
    return f"< {printed[1:]}" if printed.startswith("<") else f"= {printed}"


def layout(findings: Sequence[Finding], patients: int, positives: int, positive: str, origin: str) -> Table:
    """A line per test; the warning is the first note."""
    rows = []
    for each in findings:
        interval = f"{number(each.auroc)} ({number(each.low)} to {number(each.high)})" if each.features else "–"
        verdict = "warning" if is_alarm(each) else "none" if each.features else "not tested"
        rows.append(
            (TITLES[each.test], verdict, str(each.features), interval, p_value(each.p), p_value(each.p_corrected))
        )
    notes = (
        warning(findings, positive),
        f"{patients} patients, {positives} of them {positive} (any view, original labels). Features are means over a patient's "
        "views. Size: height, width and aspect of the box that is cut from the frame, and their squares. Exposure: mean, "
        "spread and edge strength of the pixels that are not black, and the share that is. Callipers and text: pixels in bright "
        "upright strokes, near the rim and inside, coloured pixels, and how much the most similar place resembles a circle and a "
        "plus sign. Exposure may be a sign of disease as well.",
        f"Ridge regression, {FOLDS} folds of patients; brackets: 95 % over patients. p: {PERMUTATIONS} permutations of the "
        "patients' labels; corrected for all tests by the largest AUROC of each permutation (Westfall and Young), so that "
        "without any shortcut the chance of a warning is 5 %.",
    )
    return Table(
        label="shortcuts",
        title="Shortcuts: what is no tissue and tells the label",
        header=("told from", "finding", "features", "AUROC", "p", "p, corrected"),
        rows=tuple(rows),
        text_columns=2,
        notes=notes,
        rules=(len(rows) - 2,),
        origin=origin,
    )
