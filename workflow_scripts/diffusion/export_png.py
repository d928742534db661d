"""Write the views of a store as PNG files, with a metadata.csv: for programs that read folders of pictures.

python -m workflow_scripts.diffusion.export_png --views views/synthetic.npy --index views/synthetic.csv --output synthetic_png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import progress
from workflow_scripts.runtime.cli import run, stage_parser

COLUMNS = ("file_name", "view_id", "organ", "label", "origin")
TABLE = "metadata.csv"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--views", type=Path, required=True, help="view store (.npy)")
    parser.add_argument("--index", type=Path, required=True, help="its index (.csv)")
    parser.add_argument("--origin", default="", help="what the views are if not patients': PHANTOM")
    parser.add_argument("--output", type=Path, required=True, help="folder; an earlier export there is replaced")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Write view after view."""
    import numpy as np
    from PIL import Image, PngImagePlugin

    from workflow_scripts.core.files import atomic_directory, read_npy, read_rows, write_rows
    from workflow_scripts.study.patients import check_rows

    folder = arguments.output
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / TABLE).is_file()):
        raise UserError(f"{folder} exists and is no export of views; name another --output or move it away")
    views, index = read_npy(arguments.views), read_rows(arguments.index)
    if views.dtype != np.uint8 or views.ndim != 3:
        raise UserError(f"{arguments.views} is no store of uint8 views: {views.dtype} {views.shape}")
    check_rows({str(arguments.views): len(views), str(arguments.index): len(index)})
    names = [f"{row['view_id']}.png" for row in index]
    odd = next((name for name in names if Path(name).name != name or name.startswith(".")), None)
    if odd is not None or len(set(names)) < len(names):
        raise UserError(f"{arguments.index}: view_id must be unique and a file's name ({odd or 'some are the same'})")
    note = PngImagePlugin.PngInfo()
    if arguments.origin:
        note.add_text("origin", arguments.origin)
    with atomic_directory(folder) as temporary:
        for name, view in progress(zip(names, views, strict=True), "PNG", "view", len(names)):
            Image.fromarray(view).save(temporary / name, format="PNG", pnginfo=note)
        rows = [{**row, "file_name": name, "origin": arguments.origin} for row, name in zip(index, names, strict=True)]
        write_rows([{column: row[column] for column in COLUMNS} for row in rows], COLUMNS, temporary / TABLE)


if __name__ == "__main__":
    run(main, parser())
