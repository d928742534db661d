"""Make the generation table: precision, recall and FID of the generated sets, and of real views beside them."""

from __future__ import annotations

import argparse
from pathlib import Path

from workflow_scripts.core.errors import UserError
from workflow_scripts.runtime.cli import run, stage_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument(
        "--metrics", type=Path, nargs="+", required=True, help="CSV set,metric,batch,value of each generator"
    )
    parser.add_argument(
        "--filter", type=Path, nargs="+", required=True, help="CSV of the manifold filter of each generator"
    )
    parser.add_argument("--holdout", choices=("none", "per_fold"), default="none", help="the protocol, for the caption")
    parser.add_argument("--reference-numbers", action="store_true", help="print the paper's numbers beside ours")
    parser.add_argument("--origin", default="", help="what the numbers come from if not from patients: PHANTOM")
    parser.add_argument("--output-csv", type=Path, required=True, help="all numbers")
    parser.add_argument("--output-md", type=Path, required=True, help="Markdown")
    parser.add_argument("--output-tex", type=Path, required=True, help="LaTeX")
    parser.add_argument("--output-html", type=Path, required=True, help="HTML page")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, average, lay out, write."""
    from workflow_scripts.core.files import read_csv, write_csv, write_text
    from workflow_scripts.core.tables import html_page, latex, markdown
    from workflow_scripts.tables.generation import generation_layout, generation_numbers
    from workflow_scripts.tables.tables import with_paper_numbers

    if len(arguments.metrics) != len(arguments.filter):
        raise UserError(
            f"--metrics names {len(arguments.metrics)} files, --filter {len(arguments.filter)}: one of each"
        )
    metrics = [read_csv(path) for path in arguments.metrics]
    inside = [read_csv(path)["inside"] for path in arguments.filter]
    values = generation_numbers(metrics)
    if arguments.reference_numbers:
        values = with_paper_numbers("generation", values)
    page = generation_layout(
        values,
        batches=int(metrics[0]["batch"].nunique()),
        generators=len(metrics),
        generated=sum(map(len, inside)),
        kept=sum(int(column.sum()) for column in inside),
        holdout=arguments.holdout,
        origin=arguments.origin,
    )
    write_text(markdown(page), arguments.output_md)
    write_text(latex(page), arguments.output_tex)
    write_text(html_page(page), arguments.output_html)
    write_csv(values.assign(origin=arguments.origin), arguments.output_csv)


if __name__ == "__main__":
    run(main, parser())
