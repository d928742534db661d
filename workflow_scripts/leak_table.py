"""Make the table of the leak: the same fine-tuning with folds of patients and with folds of views."""

from __future__ import annotations

import argparse
from pathlib import Path

from workflow_scripts.cli import run, say, stage_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--by-patient", type=Path, nargs="+", required=True, help="CSVs of predictions, one per seed")
    parser.add_argument("--by-view", type=Path, nargs="+", required=True, help="the same with folds of views")
    parser.add_argument("--name", required=True, help="what was fine-tuned, as printed")
    parser.add_argument("--positive", required=True, help="name of the positive class")
    parser.add_argument(
        "--spread", choices=("released", "seeds", "runs"), default="released", help="what ± means (default: released)"
    )
    parser.add_argument("--origin", default="", help="what the numbers come from if not from patients: PHANTOM")
    for suffix, what in (("csv", "all numbers"), ("md", "Markdown"), ("tex", "LaTeX"), ("html", "HTML page")):
        parser.add_argument(f"--output-{suffix}", type=Path, required=True, help=what)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, compare, lay out, write."""
    import pandas as pd

    from workflow_scripts.evaluation.leak import leak_layout, leak_numbers
    from workflow_scripts.evaluation.rendering import html_page, latex, markdown
    from workflow_scripts.files import read_csv, write_csv, write_text

    by_patient, by_view = (
        pd.concat(map(read_csv, paths), ignore_index=True) for paths in (arguments.by_patient, arguments.by_view)
    )
    values = leak_numbers(by_patient, by_view, arguments.positive, arguments.spread)
    seeds, folds = by_patient["seed"].nunique(), by_patient["fold"].nunique()
    page = leak_layout(values, arguments.name, seeds, folds, arguments.spread, arguments.origin)
    say(page.notes[-1])
    write_text(markdown(page), arguments.output_md)
    write_text(latex(page), arguments.output_tex)
    write_text(html_page(page), arguments.output_html)
    write_csv(values.assign(origin=arguments.origin), arguments.output_csv)


if __name__ == "__main__":
    run(main, parser())
