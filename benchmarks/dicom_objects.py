"""Do the classifier's DICOM objects survive writing and reading, and does a validator find an error in them?

Every frame, an ultrasound image with a patient in its header, gets a structured report and a secondary capture. An object
round-trips if it reads back equal, element by element, has the picture or the numbers that went in, nothing of the
patient, and gives the same bytes when it is made again. dciodvfy (dicom3tools) is the validator, where it is installed.

    python -m benchmarks.dicom_objects
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from highdicom.sr import srread

from benchmarks.measure import write_result
from tests.ultrasound import SECRETS, write_ultrasound
from workflow_scripts.classifier.dicom_objects import heat_capture, measurement_report, read_header, write_dicom

FACTS = {"experiment": "ud-flipped", "classes": ["homogeneous", "inhomogeneous"], "origin": "PHANTOM"}


def elements(dataset: pydicom.Dataset) -> dict[str, Any]:
    """Every element as JSON but the pixels, which a file pads to an even length; pictures are compared as such."""
    return {tag: value for tag, value in dataset.to_json_dict().items() if tag != "7FE00010"}


def is_kept(made: pydicom.Dataset, again: pydicom.Dataset, path: Path) -> bool:
    """Whether the object, written to `path`, reads back equal, holds no secret and is made again with the same bytes."""
    write_dicom(made, path)
    write_dicom(again, path.with_suffix(".again"))
    content = path.read_bytes()
    is_same = content == path.with_suffix(".again").read_bytes()
    path.with_suffix(".again").unlink()
    return (
        is_same
        and elements(pydicom.dcmread(path)) == elements(made)
        and not any(secret.encode() in content for secret in SECRETS)
    )


def errors(path: Path, validator: str | None) -> int | None:
    """How many errors the validator finds; None without one."""
    if validator is None:
        return None
    found = subprocess.run([validator, path], capture_output=True, text=True, check=False).stderr
    return sum(line.startswith("Error") for line in found.splitlines())


def frame_objects(folder: Path, number: int, draws: np.random.Generator, validator: str | None) -> list[dict[str, Any]]:
    """Make, write, read and validate the two objects of a frame."""
    facts = {**FACTS, "files": {"ensemble.safetensors": "0123456789abcdef" * 4}}
    pixels = draws.integers(0, 256, (96, 128), dtype=np.uint8)
    source = write_ultrasound(folder / f"frame{number}.dcm", pixels, number, frames=1 + number % 2)
    header = read_header(source, source.name)
    assert header is not None
    probability = float(draws.random())
    row = {
        "view": "sagittal", "unlike_training": number % 3 == 0, "prediction": FACTS["classes"][probability > 0.5],
        "probability": probability, "lowest": probability / 2, "highest": 1.0, "agreement": 0.75, "distance_percentile": 50.0,
    }  # fmt: skip
    picture = draws.integers(0, 256, (int(draws.integers(20, 300)), int(draws.integers(20, 300)), 3), dtype=np.uint8)
    report, capture = folder / f"report{number}.dcm", folder / f"capture{number}.dcm"
    made = [
        (report, *(measurement_report(header, [row], facts) for _ in range(2))),
        (capture, *(heat_capture(header, "sagittal", 1, picture, facts) for _ in range(2))),
    ]
    kept = [is_kept(one, other, path) for path, one, other in made]
    (group,) = srread(report).content.get_image_measurement_groups()
    read = [
        abs(group.get_measurements()[0].value - probability) < 1e-6,
        bool((pydicom.dcmread(capture).pixel_array == picture).all()),
    ]
    return [
        {"object": path.stem, "round_trips": ours and theirs, "errors": errors(path, validator)}
        for path, ours, theirs in zip((report, capture), kept, read, strict=True)
    ]


def main() -> None:
    """Make the objects, count, write benchmarks/results/dicom_objects.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=200, help="half reports, half captures (default: 200)")
    arguments = parser.parse_args()
    validator, draws = shutil.which("dciodvfy"), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        made = [each for i in range(arguments.objects // 2) for each in frame_objects(Path(name), i, draws, validator)]
    rows = []
    for kind in ("report", "capture"):
        own = [each for each in made if each["object"].startswith(kind)]
        rows.append(
            {
                "object": kind,
                "made": len(own),
                "round_trips": sum(each["round_trips"] for each in own),
                "with_errors": None if validator is None else sum(each["errors"] > 0 for each in own),
            }
        )
        print(rows[-1])
    write_result("dicom_objects", rows, validator="dciodvfy" if validator else None)


if __name__ == "__main__":
    main()
