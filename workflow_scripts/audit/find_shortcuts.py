"""Test whether the label can be told from what is no tissue: frame, source, exposure, callipers and text.

Before any training: a network that is told the label by a calliper needs no anatomy. Each kind of features, and all together,
is tested by patient against permuted labels.

    python -m workflow_scripts.audit.find_shortcuts --views views/labelled.npy --index views/labelled.csv \\
        --classes homogeneous inhomogeneous --output-csv shortcuts.csv --output-md shortcuts.md \\
        --output-tex shortcuts.tex --output-html shortcuts.html
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from workflow_scripts.core.files import read_csv
from workflow_scripts.core.log import say
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser

if TYPE_CHECKING:
    from workflow_scripts.audit.shortcuts import Finding
    from workflow_scripts.core.tables import Table

ALARM = 0.05


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "views index")
    add_outputs(parser, "csv md tex html")
    add_parameters(parser, "classes origin")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Measure, test, warn, write."""
    from dataclasses import asdict

    import pandas as pd

    from workflow_scripts.audit.shortcuts import find_shortcuts, measure_views, patient_features
    from workflow_scripts.core.store import ViewStore
    from workflow_scripts.core.tables import write_table

    positive = arguments.classes[1]
    store = ViewStore.open(arguments.views, arguments.index)
    truth = (store.index["label"] == positive).groupby(store.index["patient_id"]).any().to_numpy()
    features = patient_features(measure_views(store.pixels, store.index), store.index)
    findings = find_shortcuts(features, truth)
    say(warning(findings, positive))
    values = pd.DataFrame([asdict(finding) for finding in findings])
    write_table(
        layout(findings, len(truth), int(truth.sum()), positive, arguments.origin),
        values.assign(alarm=[is_alarm(finding) for finding in findings], patients=len(truth), positives=int(truth.sum())),
        csv=arguments.output_csv, md=arguments.output_md, tex=arguments.output_tex, html=arguments.output_html,
    )  # fmt: skip


def read_findings(path: Path) -> list[Finding]:
    """The findings of a table that this stage has written."""
    from dataclasses import fields

    from workflow_scripts.audit.shortcuts import Finding

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
    from workflow_scripts.audit.shortcuts import TITLES
    from workflow_scripts.core.tables import p_value

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
    from workflow_scripts.audit.shortcuts import FOLDS, PERMUTATIONS, TITLES
    from workflow_scripts.core.tables import Table, number, p_value

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


if __name__ == "__main__":
    run(main, parser())
