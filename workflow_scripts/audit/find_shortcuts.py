"""Test whether the label can be told from what is no tissue: frame, source, exposure, callipers and text.

Before any training: a network that is told the label by a calliper needs no anatomy. Each kind of features, and all together,
is tested by patient against permuted labels.

    python -m workflow_scripts.audit.find_shortcuts --views views/labelled.npy --index views/labelled.csv \\
        --classes homogeneous inhomogeneous --output-csv shortcuts.csv --output-md shortcuts.md \\
        --output-tex shortcuts.tex --output-html shortcuts.html
"""

from __future__ import annotations

import argparse

from workflow_scripts.audit.shortcut_table import is_alarm, layout, warning
from workflow_scripts.core.log import say
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser


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

    from workflow_scripts.audit.shortcuts import find_shortcuts, patient_features
    from workflow_scripts.audit.view_features import measure_views
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


if __name__ == "__main__":
    run(main, parser())
