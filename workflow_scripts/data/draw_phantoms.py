"""Draw the phantom frames that a manifest lists, for trying the workflow without patients.

Every frame says PHANTOM, in its pixels and in its metadata. make_phantom_manifest writes such a manifest.

    python -m workflow_scripts.data.draw_phantoms --manifest data_manifest.csv --root data/frames \\
        --target-organ testicle --positive inhomogeneous --output-frames phantoms/frames.csv
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import progress
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser

STAMP = "PHANTOM: drawn by a program, shows no patient"
SEED = 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "manifest patient_key?")
    add_outputs(parser, "frames")
    add_parameters(parser, "root target_organ positive")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Draw every frame in `threads` processes, then list their digests."""
    from concurrent.futures import ProcessPoolExecutor
    from functools import partial
    from multiprocessing import get_context

    from workflow_scripts.core.files import write_rows
    from workflow_scripts.study.manifest import read_manifest

    rows = read_manifest(arguments.manifest)
    named = read_manifest(arguments.manifest, arguments.patient_key)
    check_rows(named, arguments.root)
    # The old list must not describe frames that are being redrawn.
    arguments.output_frames.unlink(missing_ok=True)
    draw = partial(draw_one, root=arguments.root, target=arguments.target_organ, positive=arguments.positive)
    # Spawned: a fork beside the progress bar's thread may hang.
    with ProcessPoolExecutor(arguments.threads, mp_context=get_context("spawn")) as pool:
        digests = list(progress(pool.map(draw, rows, chunksize=8), "drawing phantoms", "frame", total=len(rows)))
    listed = [{"image_id": row["image_id"], "sha256": digest} for row, digest in zip(named, digests, strict=True)]
    write_rows(listed, ["image_id", "sha256"], arguments.output_frames)


def check_rows(rows: Sequence[Mapping[str, str]], root: Path) -> None:
    """Raise `UserError` where a file that is not a phantom would be overwritten, or where rows lack a truth or share a file.

    Messages leave out paths, which may hold ids that the key hides.
    """
    from PIL import Image, UnidentifiedImageError

    problems = [f"{row['image_id']}: the column truth is empty" for row in rows if not row.get("truth")]
    paths = Counter(row["path"] for row in rows)
    problems += [f"{row['image_id']}: {n} rows have its path" for row in rows if (n := paths[row["path"]]) > 1]
    for row in rows:
        path = root / row["path"]
        if not path.resolve().is_relative_to(root.resolve()) or path.suffix != ".png":
            problems.append(f"{row['image_id']}: its path must be that of a .png below {root}")
        elif path.exists():
            try:
                with Image.open(path) as image:
                    is_phantom = image.info.get("Comment") == STAMP
            except UnidentifiedImageError:
                is_phantom = False
            if not is_phantom:
                problems.append(f"{row['image_id']}: the file at its path exists and is not a phantom")
    if problems:
        listing = "\n".join(f"  {problem}" for problem in problems[:20])
        raise UserError(
            f"phantoms would be drawn for rows that do not describe phantoms:\n{listing}\n"
            "If these are your own frames, set data.source to files in the config"
        )


def draw_one(row: Mapping[str, str], root: Path, target: str, positive: str) -> str:
    """Draw one frame into its file and return the file's SHA-256."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from workflow_scripts.core.files import atomic_path, sha256
    from workflow_scripts.data.phantom import draw_frame

    frame = draw_frame(
        SEED, row["image_id"], row["patient_id"], row["organ"], row["truth"] == positive, row["organ"] != target
    )
    info = PngInfo()
    info.add_text("Comment", STAMP)
    with atomic_path(root / row["path"]) as temporary:
        Image.fromarray(frame).save(temporary, format="PNG", pnginfo=info, compress_level=1)
    return sha256(root / row["path"])


if __name__ == "__main__":
    run(main, parser())
