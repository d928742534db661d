"""Find text in the synthetic views that could be released: those that the filter keeps and the copy audit does not flag.

A generator draws what it has seen often, a scanner's marks among them. Whatever view OCR finds text in is neither read by a
clinician nor released. Writes where it is, with the view's name in the released set, and a sheet with the places filled.

    python -m workflow_scripts.privacy.find_text --views views/synthetic.npy --filter synthesis/filter.csv \\
        --privacy synthesis/privacy.csv --output-text checks/text_synthetic.csv --output-figure figures/text_synthetic.png
"""

from __future__ import annotations

import argparse

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_rows
from workflow_scripts.core.log import progress, say
from workflow_scripts.core.store import check_rows, open_pixels
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "views filter privacy")
    add_outputs(parser, "text figure")
    add_parameters(parser, "origin on_text")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read the views by OCR."""
    from workflow_scripts.data.text import TextReader, listing, write_findings
    from workflow_scripts.privacy.readings import file_name, releasable

    views = open_pixels(arguments.views)
    filtered, audited = read_rows(arguments.filter, "filter"), read_rows(arguments.privacy, "privacy")
    check_rows({
        str(arguments.views): len(views), str(arguments.filter): len(filtered), str(arguments.privacy): len(audited),
    })  # fmt: skip
    numbers = releasable(filtered, audited)
    reader = TextReader(views.shape[1])
    found = progress(
        reader.read_all((views[number] for number in numbers), arguments.threads), "read", "view", total=len(numbers)
    )
    texts = {number: words for number, words in zip(numbers, found, strict=True) if words}
    named = {file_name(number): words for number, words in texts.items()}
    if texts and arguments.on_text == "fail":
        raise UserError(f"{listing(named)}\nnothing is released; data.on_text: report or blank leaves these views out")
    if texts:
        say(f"{listing(named)}\nthey are left out")
    write_findings(named, views, list(texts), arguments)


if __name__ == "__main__":
    run(main, parser())
