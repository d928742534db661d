"""Make the set `synthetic` from a folder of images that were generated elsewhere, for example a published set.

Every PNG, BMP, JPEG and TIFF below the folder becomes a view, in the order of their paths: grey, letterboxed to a square
where it is none, and resized. How the images were made is not known, so nothing that rests on their generator is measured.

    python -m workflow_scripts.diffusion.import_synthetic --folder published/filtered --organ testicle --size 256 \\
        --output-views views/synthetic.npy --output-index views/synthetic.csv
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import progress, say
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser

if TYPE_CHECKING:
    import numpy as np

COLUMNS = ("view_id", "image_id", "patient_id", "organ", "label", "view")
SUFFIXES = (".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff")
WHOLE = {"kind": "none"}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "folder")
    add_outputs(parser, "views index")
    add_parameters(parser, "organ size")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read image after image and write store and index."""
    from workflow_scripts.core.files import write_npy_blocks, write_rows

    folder: Path = arguments.folder
    if not folder.is_dir():
        raise UserError(f"{folder} (synthesis.folder) is not a folder; name the one that holds the images")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise UserError(f"{folder} (synthesis.folder) holds no image that ends in {', '.join(SUFFIXES)}")
    write_npy_blocks(views(files, arguments.size), len(files), arguments.output_views)
    constant = {"patient_id": "", "organ": arguments.organ, "label": "", "view": "synthetic"}
    rows = [
        {"view_id": f"synthetic_{row:06d}", "image_id": file.relative_to(folder).as_posix(), **constant}
        for row, file in enumerate(files)
    ]
    write_rows(rows, COLUMNS, arguments.output_index)
    say(f"{len(files)} synthetic views from {folder}")


def views(files: list[Path], size: int) -> Iterator[np.ndarray]:
    """Each image as a block of one view, uint8 (1, size, size)."""
    from workflow_scripts.data.pictures import picture_frames
    from workflow_scripts.data.profiles import cut_views

    for file in progress(files, "import", "image", len(files)):
        with file.open("rb") as stream:
            frame = next(picture_frames(stream, str(file), "first"))
        yield cut_views(frame, WHOLE, size, str(file))[0].pixels[None]


if __name__ == "__main__":
    run(main, parser())
