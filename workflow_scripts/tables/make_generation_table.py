"""Make the generation table: precision, recall and FID of the generated sets, and of real views beside them.

    python -m workflow_scripts.tables.make_generation_table --metrics synthesis/metrics.csv --filter synthesis/filter.csv \\
        --output-csv generation.csv --output-md generation.md --output-tex generation.tex --output-html generation.html
"""

from __future__ import annotations

import argparse

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv
from workflow_scripts.core.tables import write_table
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser
from workflow_scripts.tables.generation import generation_layout, generation_numbers
from workflow_scripts.tables.rows import protocol_notes
from workflow_scripts.tables.tables import with_paper_numbers


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "metrics+ filter+ curve*")
    add_outputs(parser, "csv md tex html")
    add_parameters(parser, "holdout_protocol protocol reference_numbers origin")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, average, lay out, write."""
    if len(arguments.metrics) != len(arguments.filter):
        raise UserError(
            f"--metrics names {len(arguments.metrics)} files, --filter {len(arguments.filter)}: one of each"
        )
    metrics = [read_csv(path, "metrics") for path in arguments.metrics]
    inside = [read_csv(path, "filter")["inside"] for path in arguments.filter]
    values = generation_numbers(metrics)
    if arguments.reference_numbers:
        keys = [name.removesuffix("_published") for name in values["name"]]
        values = with_paper_numbers("generation", values, keys)
    page = generation_layout(
        values,
        batches=int(metrics[0]["batch"].nunique()),
        generators=len(metrics),
        generated=sum(map(len, inside)),
        kept=sum(int(column.sum()) for column in inside),
        holdout=arguments.holdout_protocol,
        made=protocol_notes(arguments.protocol, arguments.curve, arguments.reference_numbers),
        origin=arguments.origin,
    )
    write_table(
        page,
        values,
        csv=arguments.output_csv,
        md=arguments.output_md,
        tex=arguments.output_tex,
        html=arguments.output_html,
    )


if __name__ == "__main__":
    run(main, parser())
