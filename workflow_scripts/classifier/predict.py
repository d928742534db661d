"""Predict new frames with a packed classifier: likeness to the training views, probability, agreement, heat maps.

FRAMES are files (PNG, BMP, JPEG, TIFF, DICOM; of a clip the first frame) or folders, which are searched at any depth.
Each frame is cropped by the model's crop profile --profile and each view is predicted. Whether a view is unlike the
training views is said before anything else of it. Nothing but pixels is read of a file, and with --dicom what files an
object with its study (classifier/dicom_objects.py). Files that cannot be read are named and left out, and the exit
status is then 1.

Research software, not a medical device.

    python -m workflow_scripts.classifier.predict --model results/classifier --output predictions.csv --overlays heat frames/
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow_scripts.classifier.pack_classifier import DESCRIPTION, ENSEMBLE, ONNX, REFERENCE
from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import progress, say
from workflow_scripts.core.text import cell, printable
from workflow_scripts.runtime.cli import add_device, run, stage_parser

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from onnxruntime import InferenceSession
    from pydicom.dataset import Dataset

# From a batch, its rows and the number of views before it to rows that name the heat maps.
Writer = Callable[[Sequence["Cropped"], Sequence[dict[str, Any]], int], list[dict[str, Any]]]
NOTICE = "Research software, not a medical device: not for any decision about a patient."
COLUMNS = (
    "file", "view", "unlike_training", "prediction", "probability", "lowest", "highest", "agreement", "distance_percentile",
)  # fmt: skip
PICTURES = {".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff"}
BATCH = 16
# Percentile of the distance beyond which a view is called unlike the training views.
FAR = 95
# Letters of a frame's name in the name of its heat map; file systems take 255 bytes in all.
LONGEST_STEM = 40


@dataclass(frozen=True)
class Source:
    """A file to predict: its name as given (but printable), its path, and the folder that it must not lead out of."""

    name: str
    path: Path
    root: Path


@dataclass(frozen=True)
class Cropped:
    """A view of a frame."""

    file: str
    view: str
    pixels: np.ndarray


@dataclass(frozen=True)
class Model:
    """What a classifier's folder holds, except for the PyTorch weights."""

    facts: Mapping[str, Any]
    session: InferenceSession
    reference: Mapping[str, np.ndarray]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder that the stage pack_classifier wrote")
    parser.add_argument(
        "--profile", default="", help="crop profile of the frames (default: the model's, if it has one)"
    )
    parser.add_argument("--output", type=Path, help="CSV, one row per view (default: only the table on the terminal)")
    parser.add_argument("--json", type=Path, help="the same as JSON, with the classifier's name and what went wrong")
    parser.add_argument("--overlays", type=Path, help="folder for Grad-CAM++ heat maps; needs PyTorch")
    parser.add_argument(
        "--dicom", type=Path,
        help="folder for DICOM objects of DICOM frames, for research: a structured report (TID 1500) per frame and a secondary "
        "capture of the heat map per view; needs PyTorch and highdicom",
    )  # fmt: skip
    # Of the heat maps: the predictions themselves need no PyTorch and run on the CPU.
    add_device(parser, default="cpu")
    parser.add_argument("frames", type=Path, nargs="+", metavar="FRAMES", help="files and folders")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Find the files, crop, predict, write."""
    from workflow_scripts.core.files import write_json

    model = load_model(arguments.model, arguments.threads)
    profile = chosen_profile(model.facts["crop_profiles"], arguments.profile)
    sources, bad = find_files(arguments.frames)
    objects = DicomFolder(arguments.dicom, model.facts, {source.name: source.path for source in sources})
    draw = overlay_writer(arguments, model.facts, objects) if arguments.overlays or arguments.dicom else None
    say(NOTICE)
    if model.facts["origin"]:
        say(f"{model.facts['origin']}: the classifier learnt from drawn phantoms; what it says of a patient is void.")
    count = len(sources) + len(bad)
    views = cropped_views(progress(sources, "predict", "file", len(sources)), profile, model.facts["size"], bad)
    rows: list[dict[str, Any]] = []
    while batch := list(islice(views, BATCH)):
        predicted = predict(model, batch)
        rows += draw(batch, predicted, len(rows)) if draw else predicted

    if arguments.dicom:
        objects.write_reports(rows)
    if rows:
        report(rows, model.facts["origin"], arguments.output)
    if arguments.json:
        write_json({**described(model.facts), "views": rows, "failed": [*bad, *objects.unfiled]}, arguments.json)
    if bad:
        raise UserError("\n  ".join([f"{len(bad)} of {count} files could not be predicted:", *bad, *objects.unfiled]))
    if objects.unfiled:
        raise UserError("\n  ".join(["every file was predicted, but not all could be filed:", *objects.unfiled]))


def load_model(folder: Path, threads: int) -> Model:
    """The classifier in `folder`; `UserError` where a file is absent or is not the one that belongs to it."""
    import numpy as np
    import onnxruntime
    from safetensors.numpy import load_file

    from workflow_scripts.classifier.description import read_description

    if not (folder / DESCRIPTION).is_file():
        raise UserError(
            f"{folder} holds no {DESCRIPTION}: --model must be a folder that the stage pack_classifier wrote"
        )
    facts = read_description(folder / DESCRIPTION)
    for name in (ONNX, REFERENCE):
        require_unchanged(folder, name, facts)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(folder / ONNX, options, providers=["CPUExecutionProvider"])
        model = Model(facts, session, load_file(folder / REFERENCE))
        predict(model, [Cropped("", "", np.zeros((facts["size"], facts["size"]), dtype=np.uint8))])
    except Exception as error:  # whatever a file of another kind makes onnxruntime, safetensors and NumPy raise
        reason = str(error).partition("\n")[0][:200]
        raise UserError(
            f"{folder}: {ONNX} or {REFERENCE} is a file of another kind ({reason}); copy the folder again"
        ) from error
    return model


def require_unchanged(folder: Path, name: str, facts: Mapping[str, Any]) -> None:
    """Raise `UserError` unless a file of the classifier has the checksum that its description names."""
    from workflow_scripts.core.files import sha256

    if sha256(folder / name) != facts["files"][name]:
        raise UserError(f"{folder / name} is not the file that {DESCRIPTION} describes; copy the whole folder again")


def chosen_profile(profiles: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The crop profile called `name`, or the only one where no name is given."""
    known = ", ".join(profiles)
    if not name and len(profiles) > 1:
        raise UserError(f"the model has several crop profiles; name the one of these frames with --profile: {known}")
    if name and name not in profiles:
        raise UserError(f"the model has no crop profile {name!r} (--profile); there are: {known}")
    return profiles[name or next(iter(profiles))]


def find_files(given: Sequence[Path]) -> tuple[list[Source], list[str]]:
    """The files that are named or are in named folders, sorted within each, and what is wrong with other names.

    A file that is named is always read; in a folder those that have a picture's suffix or begin as DICOM files do,
    whatever their names, and no hidden ones.
    """
    sources, bad = [], []
    for path in given:
        if path.is_dir():
            inside = [file for file in sorted(path.rglob("*")) if is_frame(file, path)]
            sources += [Source(printable(str(file)), file.absolute(), path.absolute()) for file in inside]
            if not inside:
                bad.append(f"{printable(str(path))}: this folder holds no picture and no DICOM file")
        elif path.is_file():
            real = path.resolve()
            sources.append(Source(printable(str(path)), real, real.parent))
        else:
            bad.append(f"{printable(str(path))}: does not exist")
    return sources, bad


def is_frame(file: Path, folder: Path) -> bool:
    """Whether a file found in `folder` may be a frame."""
    if any(part.startswith(".") for part in file.relative_to(folder).parts) or not file.is_file():
        return False
    if file.suffix.lower() in PICTURES:
        return True
    try:
        with file.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM" and file.name != "DICOMDIR"
    except OSError:
        return False


def cropped_views(
    sources: Iterator[Source], profile: Mapping[str, Any], size: int, bad: list[str]
) -> Iterator[Cropped]:
    """The views of all files in order; what is wrong with a file is added to `bad`."""
    from workflow_scripts.data.frames import read_frames
    from workflow_scripts.data.profiles import cut_views

    for source in sources:
        try:
            views = [
                view
                for frame in read_frames(source.path, source.root, source.name)
                for view in cut_views(frame, profile, size, source.name)
            ]
        except UserError as error:
            bad.append(str(error))
            continue
        yield from (Cropped(source.name, view.name, view.pixels) for view in views)


def predict(model: Model, views: Sequence[Cropped]) -> list[dict[str, Any]]:
    """One row of `COLUMNS` per view."""
    import numpy as np

    from workflow_scripts.classifier.novelty import neighbour_distances, percentiles, unit_length
    from workflow_scripts.finetuning.predictions import DECISION, decide

    stack = np.stack([view.pixels for view in views])
    probability, members, embeddings = model.session.run(None, {model.session.get_inputs()[0].name: stack})
    agreement = ((members > DECISION) == (probability > DECISION)[:, None]).mean(axis=1)
    neighbours = model.facts["novelty"]["neighbours"]
    far = [
        percentiles(
            neighbour_distances(
                unit_length(embeddings[:, number]), model.reference[f"member{number}.embeddings"], neighbours
            ),
            model.reference[f"member{number}.distances"],
        )
        for number in range(members.shape[1])
    ]
    distance = np.mean(far, axis=0)
    values = (
        (distance > FAR).astype(int), decide(probability, model.facts["classes"]), probability, members.min(axis=1),
        members.max(axis=1), agreement, distance,
    )  # fmt: skip
    return [
        dict(zip(COLUMNS, (view.file, view.view, *row), strict=True))
        for view, row in zip(views, zip(*(column.tolist() for column in values), strict=True), strict=True)
    ]


def report(rows: Sequence[Mapping[str, Any]], origin: str, output: Path | None) -> None:
    """Say how many views are unlike the training views, then print the table, and write it where a path is given.

    An origin becomes a column of both.
    """
    from workflow_scripts.core.files import write_rows

    far = sum(row["unlike_training"] for row in rows)
    if far:
        say(
            f"{far} of {len(rows)} views lie farther from the training views than {FAR} % of the views of unseen patients"
            " did: do not rely on their probabilities"
        )
    columns = [*rows[0], *(["origin"] if origin else [])]
    stamped = [{**row, "origin": origin} if origin else dict(row) for row in rows]
    if output:
        write_rows(
            [{key: f"{value:.6g}" if isinstance(value, float) else cell(str(value)) for key, value in row.items()}
             for row in stamped],
            columns, output,
        )  # fmt: skip
    lines = [columns] + [
        [f"{row[key]:.{0 if key == 'distance_percentile' else 2}f}" if isinstance(row[key], float) else str(row[key])
         for key in columns]
        for row in stamped
    ]  # fmt: skip
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def described(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a JSON of predictions says of the classifier that made them."""
    names = ("experiment", "classes", "origin")
    return {"notice": NOTICE, **{name: facts[name] for name in names}, "sha256": facts["files"][ENSEMBLE]}


def plain_stem(file: str) -> str:
    """The part of a frame's name that names of what is made from it begin with: letters, digits, `_`, `.`, `-`."""
    return re.sub(r"[^\w.-]", "_", Path(file).stem)[:LONGEST_STEM]


class DicomFolder:
    """The folder of DICOM objects, `paths` of the files by name; `unfiled` says which headers lack what."""

    def __init__(self, folder: Path | None, facts: Mapping[str, Any], paths: Mapping[str, Path]) -> None:
        self.folder, self.facts, self.paths = folder, facts, paths
        self.unfiled: list[str] = []
        self.headers: dict[str, Dataset | None] = {}
        self.views: dict[str, list[str]] = {}

    def header(self, file: str) -> Dataset | None:
        """What the objects of a frame are filed by; None for a frame that is no DICOM file or cannot be filed."""
        from workflow_scripts.classifier.dicom_objects import read_header

        if self.folder is None:
            return None
        if file not in self.headers:
            try:
                self.headers[file] = read_header(self.paths[file], file)
            except UserError as error:
                self.headers[file] = None
                self.unfiled.append(str(error))
        return self.headers[file]

    def write_capture(self, view: Cropped, name: str, figure: Figure) -> None:
        """Write the heat map of a view, where its frame can be filed."""
        from workflow_scripts.classifier.dicom_objects import heat_capture, write_dicom
        from workflow_scripts.core.figures import as_pixels

        header = self.header(view.file)
        if header is None or self.folder is None:
            return
        views = self.views.setdefault(view.file, [])
        if view.view not in views:
            views.append(view.view)
        number = views.index(view.view) + 1
        write_dicom(heat_capture(header, view.view, number, as_pixels(figure), self.facts), self.folder / f"{name}.dcm")

    def write_reports(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a report per frame that can be filed, on all its views."""
        from workflow_scripts.classifier.dicom_objects import measurement_report, write_dicom

        assert self.folder is not None
        files = [file for file in dict.fromkeys(row["file"] for row in rows) if self.headers[file] is not None]
        for number, file in enumerate(files, start=1):
            header = self.headers[file]
            assert header is not None
            by_view = {row["view"]: row for row in rows if row["file"] == file}  # once, if the file was named twice
            made = measurement_report(header, list(by_view.values()), self.facts)
            write_dicom(made, self.folder / f"{number:04d}_{plain_stem(file)}_report.dcm")
        say(f"{len(files)} of {len(self.headers)} frames have DICOM objects in {self.folder}")


def overlay_writer(arguments: argparse.Namespace, facts: Mapping[str, Any], objects: DicomFolder) -> Writer:
    """A function that draws a batch's heat maps into --overlays and --dicom, and adds the former's names to its rows."""
    try:
        import torch

        from workflow_scripts.classifier.ensemble import load_ensemble
        from workflow_scripts.core.figures import save
        from workflow_scripts.finetuning.explanation import explained_stage, heat_maps
        from workflow_scripts.networks.backbone import normalise
        from workflow_scripts.runtime.device import select_device

        if arguments.dicom:
            import highdicom  # noqa: F401
    except ModuleNotFoundError as error:
        needed = "PyTorch, timm, grad-cam, matplotlib and, for --dicom, highdicom"
        raise UserError(f"--overlays and --dicom need {needed}; {error.name} is missing") from None
    import numpy as np

    device = select_device(arguments.device, arguments.threads)
    require_unchanged(arguments.model, ENSEMBLE, facts)
    members = load_ensemble(arguments.model / ENSEMBLE).to(device).members

    def draw(batch: Sequence[Cropped], rows: Sequence[dict[str, Any]], done: int) -> list[dict[str, Any]]:
        images = normalise(torch.from_numpy(np.stack([view.pixels for view in batch])).to(device))
        drawn = []
        for number, (view, row) in enumerate(zip(batch, rows, strict=True), start=done + 1):
            name = f"{number:04d}_{plain_stem(view.file)}_{view.view}"
            if not arguments.overlays and objects.header(view.file) is None:
                drawn.append(row)
                continue
            target = facts["classes"].index(row["prediction"])
            single = images[number - done - 1 : number - done]
            heat = np.mean(
                [
                    heat_maps(member, explained_stage(member.backbone, facts["size"]), single, target)[0]
                    for member in members
                ],
                0,
            )
            figure = overlay_figure(view, row, heat, facts)
            objects.write_capture(view, name, figure)
            if arguments.overlays:
                save(figure, arguments.overlays / f"{name}.png")
                row = {**row, "overlay": f"{name}.png"}
            drawn.append(row)
        return drawn

    return draw


def overlay_figure(view: Cropped, row: Mapping[str, Any], heat: np.ndarray, facts: Mapping[str, Any]) -> Figure:
    """The view, and beside it the view under the members' mean Grad-CAM++ map (H, W) for the predicted class."""
    from matplotlib.figure import Figure

    from workflow_scripts.core.figures import stamp

    figure = Figure(figsize=(6, 3.9), layout="constrained")
    plain, marked = figure.subplots(1, 2)
    for axis in (plain, marked):
        axis.imshow(view.pixels, cmap="gray", vmin=0, vmax=255)
        axis.set(xticks=[], yticks=[])
    marked.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.55)
    plain.set_title(f"view {view.view}", fontsize=9)
    marked.set_title(f"what speaks for {row['prediction']} (Grad-CAM++)", fontsize=9)
    warning = "UNLIKE THE TRAINING VIEWS: do not rely on the probability\n" if row["unlike_training"] else ""
    figure.suptitle(
        f"{warning}p({facts['classes'][1]}) = {row['probability']:.2f}, networks {row['lowest']:.2f} to {row['highest']:.2f},"
        f" {100 * row['agreement']:.0f} % agree\nfarther from the training views than {row['distance_percentile']:.0f} % of"
        " the views of unseen patients",
        fontsize=9,
    )
    figure.supxlabel(NOTICE, fontsize=7)
    stamp(figure, facts["origin"])
    return figure


if __name__ == "__main__":
    run(main, parser())
