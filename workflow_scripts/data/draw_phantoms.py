"""Make a phantom study: `manifest` writes its data_manifest.csv, `frames` draws the frames that a manifest lists.

Phantoms are for trying the workflow without patients. Every frame says PHANTOM, in its pixels and in its metadata.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import progress
from workflow_scripts.runtime.cli import add_patient_key, run, stage_parser

STAMP = "PHANTOM: drawn by a program, shows no patient"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    manifest = commands.add_parser("manifest", help="write a manifest", allow_abbrev=False)
    manifest.add_argument(
        "--labelled-patients", type=int, default=48, help="patients, two testicles each (default: 48)"
    )
    manifest.add_argument("--unlabelled-testicles", type=int, default=40, help="frames without label (default: 40)")
    manifest.add_argument("--thyroids", type=int, default=80, help="frames of the second organ (default: 80)")
    manifest.add_argument(
        "--positive-share", type=float, default=0.2, help="share of positive testicles (default: 0.2)"
    )
    manifest.add_argument(
        "--wrong-labels", type=float, default=0.08, help="share of labels planted wrong (default: 0.08)"
    )
    manifest.add_argument("--seed", type=int, default=0, help="seed of every draw (default: 0)")
    manifest.add_argument("--output", type=Path, required=True, help="the manifest")
    frames = commands.add_parser("frames", help="draw the frames of a manifest", allow_abbrev=False)
    frames.add_argument("--manifest", type=Path, required=True, help="manifest with the column truth")
    add_patient_key(frames)
    frames.add_argument("--root", type=Path, required=True, help="folder below which the frames go")
    frames.add_argument("--target-organ", default="testicle", help="organ drawn as a testicle (default: testicle)")
    frames.add_argument(
        "--positive", default="inhomogeneous", help="truth drawn inhomogeneous (default: inhomogeneous)"
    )
    frames.add_argument("--seed", type=int, default=0, help="seed of every draw (default: 0)")
    frames.add_argument("--threads", type=int, default=1, help="processes that draw (default: 1)")
    frames.add_argument(
        "--output", type=Path, required=True, help="CSV of image_id and sha256, written when all are drawn"
    )
    frames.add_argument("--log", type=Path, help="also write messages to this file", default=argparse.SUPPRESS)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Write a manifest, or draw its frames."""
    if arguments.command == "manifest":
        write_manifest(arguments)
    else:
        draw_frames(arguments)


def write_manifest(arguments: argparse.Namespace) -> None:
    """Plan the study and write its rows."""
    from workflow_scripts.core.files import write_rows
    from workflow_scripts.data.phantom import manifest_rows

    shares = {"--positive-share": arguments.positive_share, "--wrong-labels": arguments.wrong_labels}
    wrong = [f"{flag} {value}" for flag, value in shares.items() if not 0 <= value <= 1]
    if wrong or arguments.labelled_patients < 1 or min(arguments.unlabelled_testicles, arguments.thyroids) < 0:
        raise UserError(
            f"no such study: shares lie in 0 to 1 ({', '.join(wrong) or 'they do'}), and one patient is the least"
        )
    rows = manifest_rows(
        arguments.seed, arguments.labelled_patients, arguments.unlabelled_testicles, arguments.thyroids,
        arguments.positive_share, arguments.wrong_labels, ("testicle", "thyroid"), ("homogeneous", "inhomogeneous"),
    )  # fmt: skip
    write_rows(rows, list(rows[0]), arguments.output)


def draw_frames(arguments: argparse.Namespace) -> None:
    """Draw every frame, then list their digests."""
    from concurrent.futures import ProcessPoolExecutor
    from functools import partial
    from multiprocessing import get_context

    from workflow_scripts.core.files import write_rows
    from workflow_scripts.study.manifest import read_manifest

    rows = read_manifest(arguments.manifest)
    named = read_manifest(arguments.manifest, arguments.patient_key)
    check_rows(named, arguments.root)
    # The old list must not stand for frames that are being redrawn.
    arguments.output.unlink(missing_ok=True)
    draw = partial(
        draw_one, root=arguments.root, target=arguments.target_organ, positive=arguments.positive, seed=arguments.seed
    )
    # Spawned: a fork beside the progress bar's thread may hang.
    with ProcessPoolExecutor(arguments.threads, mp_context=get_context("spawn")) as pool:
        digests = list(progress(pool.map(draw, rows, chunksize=8), "drawing phantoms", "frame", total=len(rows)))
    listed = [{"image_id": row["image_id"], "sha256": digest} for row, digest in zip(named, digests, strict=True)]
    write_rows(listed, ["image_id", "sha256"], arguments.output)


def check_rows(rows: Sequence[Mapping[str, str]], root: Path) -> None:
    """Refuse to draw over anything that is not a phantom, and rows that do not say what to draw, or twice the same file.

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
            f"phantoms would be drawn for rows that are none:\n{listing}\n"
            "If these are your own frames, set data.source to files in the config"
        )


def draw_one(row: Mapping[str, str], root: Path, target: str, positive: str, seed: int) -> str:
    """Draw one frame into its file and return the file's SHA-256."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from workflow_scripts.core.files import atomic_path, sha256
    from workflow_scripts.data.phantom import draw_frame

    frame = draw_frame(
        seed, row["image_id"], row["patient_id"], row["organ"], row["truth"] == positive, row["organ"] != target
    )
    info = PngInfo()
    info.add_text("Comment", STAMP)
    with atomic_path(root / row["path"]) as temporary:
        Image.fromarray(frame).save(temporary, format="PNG", pnginfo=info, compress_level=1)
    return sha256(root / row["path"])


if __name__ == "__main__":
    run(main, parser())
