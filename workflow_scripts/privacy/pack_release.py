"""Pack the releasable synthetic set: filtered views without those the copy audit flags or OCR finds text in, as one
deterministic archive. Views that a clinician called not fit to be shared stay out, too.

The zip holds `train/synthetic_<number>.png` with `train/metadata.csv` (the ImageFolder layout of dataset hubs),
`README.md` (a dataset card), `croissant.json` (the same for machines) and `checksums.sha256`. The same inputs give the
same bytes. Nothing of real views is in it. A set that could not be audited, since no patient was held out, is refused
unless --without-audit is given; then card and metadata say so.

    python -m workflow_scripts.privacy.pack_release --views views/synthetic.npy --filter synthesis/filter.csv \\
        --privacy synthesis/privacy.csv --text checks/text_synthetic.csv --summary synthesis/privacy.json \\
        --metrics synthesis/metrics.csv --organ testicle --output-archive release/synthetic.zip
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import atomic_path, read_rows
from workflow_scripts.core.log import progress, say
from workflow_scripts.core.store import check_rows, open_pixels
from workflow_scripts.privacy.card import dataset_card
from workflow_scripts.privacy.croissant import croissant
from workflow_scripts.privacy.readings import file_name, read_readings, releasable, without_text
from workflow_scripts.privacy.summary import read_summary
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import add_settings, run, settings, stage_parser
from workflow_scripts.study.config.release import ReleaseCard

if TYPE_CHECKING:
    import numpy as np

EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can state


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "views filter privacy text summary metrics readings? key?")
    add_outputs(parser, "archive")
    add_parameters(parser, "organ origin")
    add_settings(parser, ReleaseCard)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Pack the archive."""
    release: ReleaseCard = settings(arguments)
    views = open_pixels(arguments.views)
    filtered, audited = read_rows(arguments.filter, "filter"), read_rows(arguments.privacy, "privacy")
    check_rows({
        str(arguments.views): len(views), str(arguments.filter): len(filtered), str(arguments.privacy): len(audited),
    })  # fmt: skip
    privacy, metrics = read_summary(arguments.summary), read_metrics(arguments.metrics)
    if not privacy["possible"] and not release.without_audit:
        raise UserError(
            f"{arguments.summary} says that the copy audit was not possible, since no patient was held out: the set is not"
            " released. Set diffusion.holdout_patients and train the generator again, or set release.without_audit: true;"
            " the cards then say that the set was not audited"
        )
    if (arguments.readings is None) != (arguments.key is None):
        raise UserError("--readings and --key belong together: give both or neither")
    reading = read_readings(arguments.readings, arguments.key) if arguments.readings else None
    original = releasable(filtered, audited)
    legible = without_text(original, arguments.text)
    released = [number for number in legible if reading is None or number not in reading.unfit]
    kept = sum(row["inside"] == "1" for row in filtered)
    counts = {
        "generated": len(views),
        "filtered": kept,
        "copies": kept - len(original),
        "text": len(original) - len(legible),
        "unfit": len(legible) - len(released),
        "released": len(released),
    }
    if not released:
        raise UserError(
            f"nothing is left to release: of {len(views)} synthetic views the filter keeps {counts['filtered']}, and"
            f" the copy audit flags {counts['copies']} of those, {counts['text']} others hold text, and a clinician called"
            f" {counts['unfit']} not fit to be shared. Generate more views or train the generator for fewer steps"
        )
    card = dataset_card(
        title=release.title,
        licence=release.licence,
        contact=release.contact,
        organ=arguments.organ,
        origin=arguments.origin,
        counts=counts,
        size=views.shape[1],
        privacy=privacy,
        metrics=metrics,
        reading=reading,
    )
    table = metadata(released, arguments.organ, arguments.origin)
    digest = hashlib.sha256(table).hexdigest()
    about = croissant(
        release.title, release.licence, arguments.organ, arguments.origin, len(released), digest, privacy["possible"], reading
    )  # fmt: skip
    documents = {"README.md": card.encode(), "croissant.json": about.encode(), "train/metadata.csv": table}
    with atomic_path(arguments.output_archive) as temporary:
        files = members(views, released, documents)
        pack(progress(files, "pack", "file", total=len(released) + len(documents)), temporary)
    verdict = f"{counts['copies']} left out as possible copies" if privacy["possible"] else "not audited for copies"
    say(f"released {len(released)} of {len(views)} synthetic views, {verdict}")


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv, of which every value is a number."""
    rows = read_rows(path, "metrics")
    for number, row in enumerate(rows, start=1):
        try:
            float(row["value"])
        except (TypeError, ValueError):
            raise UserError(f"{path}, row {number}: value {row['value']!r} is not a number; make it again") from None
    return rows


def metadata(released: list[int], organ: str, origin: str) -> bytes:
    """The table of the released views, CSV."""
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["file_name", "organ", "index", "origin"])
    for number in released:
        writer.writerow([file_name(number), organ, number, origin or "generated"])
    return table.getvalue().encode()


def members(views: np.ndarray, released: list[int], texts: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file of the archive: the texts, then the views as PNG."""
    from PIL import Image

    yield from texts.items()
    for number in released:
        image = io.BytesIO()
        Image.fromarray(views[number]).save(image, format="PNG", compress_level=6)
        yield f"train/{file_name(number)}", image.getvalue()


def pack(files: Iterator[tuple[str, bytes]], path: Path) -> None:
    """Write a zip that depends on names and contents only, with `checksums.sha256` over all other files."""
    checksums = []
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files:
            checksums.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
            archive.writestr(_entry(name), content, compresslevel=6)
        archive.writestr(_entry("checksums.sha256"), "".join(checksums), compresslevel=6)


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, EPOCH)
    # PNG is compressed already.
    entry.compress_type = zipfile.ZIP_STORED if name.endswith(".png") else zipfile.ZIP_DEFLATED
    entry.create_system = 3
    entry.external_attr = 0o644 << 16
    return entry


if __name__ == "__main__":
    run(main, parser())
