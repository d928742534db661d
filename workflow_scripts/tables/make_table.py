"""Make one of the tables of fine-tuning: numbers as CSV; laid out like the paper's as Markdown, LaTeX and HTML; as a figure.

The figure is a forest plot: the differences to the reference with their intervals, and the paper's as hollow marks.

    python -m workflow_scripts.tables.make_table --table table2 --rows '[{"name": "UD", "experiment": "ud-flipped"}]' \\
        --experiments ud-flipped --predictions finetuning/ud-flipped/seed0.csv --classes homogeneous inhomogeneous \\
        --output-csv table2.csv --output-md table2.md --output-tex table2.tex --output-html table2.html
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.figures import save
from workflow_scripts.core.files import read_csv
from workflow_scripts.core.tables import write_table
from workflow_scripts.finetuning.predictions import TRAINING_COLUMNS
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser
from workflow_scripts.tables import tables
from workflow_scripts.tables.forest import forest_figure, marks
from workflow_scripts.tables.reading import with_sign
from workflow_scripts.tables.rows import Row, protocol_notes, read_predictions, read_table_rows


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "predictions+ training* curve*")
    add_outputs(parser, "csv md tex html figure?")
    add_parameters(parser, "table rows experiments trained classes spread holdout_protocol pretraining_seeds split_by")
    add_parameters(parser, "protocol reference_numbers origin")
    return parser


def movement(rows: Sequence[Row], trained: Sequence[str], files: Sequence[Path]) -> str:
    """A caption's sentence on how the experiments `trained` were trained.

    `files` are fine-tuning's tables of it, all seeds of the first experiment, then of the next.
    """
    import pandas as pd

    seeds, rest = divmod(len(files), max(len(trained), 1))
    if rest or not seeds:
        raise UserError(
            f"--training names {len(files)} files for {len(trained)} experiments; give one per seed of each"
        )
    parts, own = [], []
    for i, experiment in enumerate(trained):
        runs = pd.concat([read_csv(file)[TRAINING_COLUMNS] for file in files[i * seeds : (i + 1) * seeds]])
        name = next(row.name for row in rows if row.experiment == experiment)
        rise = 100 * (runs["loss_last"].mean() / runs["loss_before"].mean() - 1)
        since = "" if rise != rise else f", {with_sign(rise)} %"
        parts.append(f"{name} {100 * runs['weights_moved'].mean():.2f} % ({runs['loss_last'].mean():.3f}{since})")
        factors = runs["rate_factor"].value_counts().sort_index().to_dict()
        if set(factors) != {1.0}:
            taken = ", ".join(f"{factor:g} in {count}" for factor, count in factors.items())
            own.append(f"{name}: factor {taken} of {len(runs)} trainings")
    return (
        "Fine-tuning changed the weights of the backbone, relative to their length, by (in brackets the mean training loss of "
        f"the last quarter of the epochs, and its change since the quarter before): {'; '.join(parts)}."
        + (f" Learning rates chosen on an inner split of the training patients: {'; '.join(own)}." if own else "")
    )


def main(arguments: argparse.Namespace) -> None:
    """Read, compute, lay out, write."""
    table, positive, spread = arguments.table, arguments.classes[1], arguments.spread
    rows = read_table_rows(arguments.rows)
    predictions = read_predictions(rows, arguments.experiments, arguments.predictions, arguments.classes)
    reference = tables.choose_reference(table, rows)
    values = tables.numbers(rows, predictions, positive, spread, reference, arguments.pretraining_seeds)
    if arguments.reference_numbers:
        values = tables.with_paper_numbers(table, values, [row.paper for row in rows])
    caption = tables.notes(
        table, rows, predictions, values, positive, spread, arguments.holdout_protocol, reference,
        arguments.pretraining_seeds, arguments.split_by,
    )  # fmt: skip
    if arguments.training:
        caption.append(movement(rows, arguments.trained, arguments.training))
    if arguments.reference_numbers:
        caption.append("Columns (paper): Morelli et al., ICIAP 2025, on their own data.")
    caption += protocol_notes(arguments.protocol, arguments.curve, arguments.reference_numbers)
    page = tables.layout(table, rows, values, reference, caption, arguments.origin)
    write_table(
        page,
        values,
        csv=arguments.output_csv,
        md=arguments.output_md,
        tex=arguments.output_tex,
        html=arguments.output_html,
    )
    if arguments.output_figure:
        title, has_shared_labels = tables.TITLES[table], tables.share_labels(rows, predictions)
        save(forest_figure(marks(values), title, has_shared_labels, arguments.origin), arguments.output_figure)


if __name__ == "__main__":
    run(main, parser())
