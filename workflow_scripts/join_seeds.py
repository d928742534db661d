"""Join the predictions of an experiment's seeds into one file, as they are."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from workflow_scripts.cli import run, stage_parser
from workflow_scripts.errors import UserError
from workflow_scripts.files import atomic_path


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--inputs", type=Path, nargs="+", required=True, help="one CSV per seed")
    parser.add_argument("--output", type=Path, required=True, help="CSV of all seeds")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Append file after file below one header. Bytes are copied, so that nothing is rounded or requoted."""
    first = b""
    with atomic_path(arguments.output) as temporary, temporary.open("wb") as output:
        for path in arguments.inputs:
            with path.open("rb") as file:
                header = file.readline()
                if not first:
                    first = header
                    output.write(header)
                if header != first:
                    raise UserError(
                        f"{path} has the columns {header.decode().strip()}, but {arguments.inputs[0]} has "
                        f"{first.decode().strip()}; one of them was written by another version of the stage"
                    )
                shutil.copyfileobj(file, output)


if __name__ == "__main__":
    run(main, parser())
