"""Write the views of a store as PNG files, with a metadata.csv: for programs that read folders of images.

    python -m workflow_scripts.diffusion.export_png --views views/synthetic.npy --index views/synthetic.csv \\
        --output-folder synthetic_png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import progress
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser

COLUMNS = ("file_name", "view_id", "organ", "label", "origin")
TABLE = "metadata.csv"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "views index")
    add_outputs(parser, "folder")
    add_parameters(parser, "origin")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Write view after view."""
    from PIL import Image, PngImagePlugin

    from workflow_scripts.core.files import atomic_directory, write_csv
    from workflow_scripts.core.store import ViewStore

    folder = arguments.output_folder
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / TABLE).is_file()):
        raise UserError(f"{folder} exists and is not an export of views; name another --output-folder or move it away")
    views = ViewStore.open(arguments.views, arguments.index)
    names = [f"{view_id}.png" for view_id in views.index["view_id"]]
    odd = next((name for name in names if Path(name).name != name or name.startswith(".")), None)
    if odd is not None:
        raise UserError(f"{arguments.index}: view_id must be a file name, and {odd} is none")
    note = PngImagePlugin.PngInfo()
    if arguments.origin:
        note.add_text("origin", arguments.origin)
    with atomic_directory(folder) as temporary:
        for name, view in progress(zip(names, views.pixels, strict=True), "PNG", "view", len(names)):
            Image.fromarray(view).save(temporary / name, format="PNG", pnginfo=note)
        table = views.index.assign(file_name=names, origin=arguments.origin)
        write_csv(table[list(COLUMNS)], temporary / TABLE)


if __name__ == "__main__":
    run(main, parser())
