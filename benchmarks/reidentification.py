"""Do the copy audit's networks find planted copies of patients whom they never saw?

Both learn from half of BUS-BRA's patients with two views. Of the other half, and of all patients of DDTI, some play
the generator's training patients, whose views are altered and planted, and the others those whom it never saw, on
whom the threshold of all detectors together is set, at 1 % false alarms, as in the audit. Besides the audit's kinds,
copies are cropped to 70 to 90 % of the side at random places, so that they are not the crops that the audit compares
with. The patient encoder is also asked whether two views are of one patient, which is what an attacker with other
views would do; the interval draws patients. Training continues where an interrupted run stopped.

    python -m benchmarks.reidentification --images DIR --steps 400 --work DIR

DIR holds `busbra/` as published and `ddti/` with `manifest.csv` (image_id, path, patient_id, organ). Views of 96 x 96 pixels;
DDTI's are the sonograms that the crop profile `auto` finds on the screenshots.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import write_on_page, write_result
from workflow_scripts.core.files import atomic_path, read_json, write_json
from workflow_scripts.privacy.copy_encoder import TRAININGS, copy_features

SIZE, SHIFT, FALSE_ALARMS, SEED, HELD_OUT = 96, 8, 0.01, 0, 0.5
SAVE_EVERY = 20
ZOOMS = (0.9, 0.85, 0.8, 0.75, 0.7)
PAGE = Path(__file__).parents[1] / "docs" / "privacy.md"


def view_of(picture: np.ndarray) -> np.ndarray:
    """A picture, uint8 (H, W), letterboxed to a view, uint8 (SIZE, SIZE)."""
    from workflow_scripts.data.profiles import letterbox, resize

    return resize(letterbox(picture), SIZE)


def grey(file: Path) -> np.ndarray:
    """An image file, uint8 (H, W)."""
    from PIL import Image

    with Image.open(file) as picture:
        return np.asarray(picture.convert("L"))


def drawn(patients: np.ndarray, count: int) -> np.ndarray:
    """bool (N,): the views of at most `count` of their patients (N,)."""
    return np.isin(patients, np.random.default_rng(SEED + 3).permutation(np.unique(patients))[:count])


def busbra(folder: Path) -> dict[str, np.ndarray]:
    """`views` and `patients` of BUS-BRA's cases with two views."""
    with (folder / "busbra" / "bus_data.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    cases = [row["Case"] for row in rows]
    paired = [row for row in rows if cases.count(row["Case"]) == 2]
    views = [view_of(grey(folder / "busbra" / "Images" / f"{row['ID']}.png")) for row in paired]
    return {"views": np.stack(views), "patients": np.array([row["Case"] for row in paired])}


def ddti(folder: Path, count: int) -> dict[str, np.ndarray]:
    """`views` and `patients` of DDTI, of at most `count` patients."""
    from workflow_scripts.data.sonogram import find_sonograms

    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["organ"] == "thyroid"]
    views, patients = [], []
    chosen = drawn(np.array([row["patient_id"] for row in rows]), count)
    for row in (row for row, is_chosen in zip(rows, chosen, strict=True) if is_chosen):
        screen = grey(folder / row["path"])
        for top, left, height, width in find_sonograms(screen):
            views.append(view_of(screen[top : top + height, left : left + width]))
            patients.append(row["patient_id"])
    return {"views": np.stack(views), "patients": np.array(patients)}


def kept(file: Path, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """What `make` makes, made once and then read from `file`."""
    if not file.is_file():
        with atomic_path(file) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **make())
    with np.load(file) as found:
        return dict(found)


def trained(name: str, views: np.ndarray, patients: np.ndarray, steps: int, work: Path) -> Any:
    """A training run that is over, and its seconds per step."""
    device = torch.device("cpu")
    training = TRAININGS[name](views, patients, steps, SEED, device)
    file = work / f"{name.replace(' ', '_')}_{steps}.pt"
    done = 0
    if file.is_file():
        state = torch.load(file, weights_only=True)
        training.restore(state)
        done = state["done"]
    for step in range(done, steps):
        training.step(step)
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            torch.save({**training.state(), "done": step + 1}, file.with_suffix(".part"))
            file.with_suffix(".part").replace(file)
            print(f"{name}: step {step + 1} of {steps}, {time.strftime('%H:%M:%S')}", flush=True)
    return training


def same_patient(features: np.ndarray, patients: np.ndarray) -> dict[str, float]:
    """AUROC of telling a patient's pairs of views from pairs of two patients, by cosine, with a 95 % interval."""
    from workflow_scripts.core.statistics import percentile_interval, redraws

    similar = features @ features.T
    names, member = np.unique(patients, return_inverse=True)
    same = (member[:, None] == member) & ~np.eye(len(member), dtype=bool)
    # For each patient: the share of other patients' pairs that each of its own pairs beats.
    values = np.full(len(names), np.nan)
    for patient in range(len(names)):
        own = member == patient
        positive = similar[own][:, own][same[own][:, own]]
        if len(positive):
            negative = similar[own][:, ~own].ravel()
            values[patient] = ((positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)).mean()
    values = values[~np.isnan(values)]
    means = np.concatenate([times @ values / times.sum(axis=1) for times in redraws(len(values), 2000, SEED)])
    low, high = percentile_interval(means, 0.95)
    return {"patients": len(values), "auroc": float(values.mean()), "low": low, "high": high}


def random_crops(views: np.ndarray, zoom: float) -> np.ndarray:
    """Copies of views, uint8 (N, SIZE, SIZE), cropped to `zoom` of the side at places drawn at random."""
    from scipy.ndimage import map_coordinates

    draw, found = np.random.default_rng(SEED + 2), []
    for view in views:
        line = np.arange(SIZE) * zoom
        top, left = draw.uniform(0, SIZE * (1 - zoom), 2)
        places = np.meshgrid(line + top, line + left, indexing="ij")
        found.append(np.rint(map_coordinates(view.astype(np.float32), places, order=1, mode="nearest")))
    return np.clip(found, 0, 255).astype(np.uint8)


def measured(encoders: dict[str, Any], views: np.ndarray, patients: np.ndarray, work: Path) -> dict[str, Any]:
    """Shares of planted copies that are found among patients whom the networks never saw, by detector, and by any."""
    from workflow_scripts.privacy.copies import Detectors, Views
    from workflow_scripts.privacy.planted import planted_copies, planted_rows, power

    names = np.random.default_rng(SEED).permutation(np.unique(patients))
    held_out = np.isin(patients, names[: round(HELD_OUT * len(names))])
    known, unseen = views[~held_out], views[held_out]
    chosen = known[planted_rows(len(known), SEED)]
    copies = planted_copies(chosen, SHIFT, SEED)
    copies |= {f"cropped to {zoom:.0%} anywhere": random_crops(chosen, zoom) for zoom in ZOOMS}
    features = {}
    for name, run in encoders.items():
        embed = partial(copy_features, run.network, device=run.device)

        makes = {
            "known": partial(embed, known, crops=True),
            "unseen": partial(embed, unseen),
            "planted": lambda embed=embed: np.stack([embed(pixels) for pixels in copies.values()]),
        }
        features[name] = {
            part: kept(work / f"{name.replace(' ', '_')}_{part}.npz", lambda make=make: {"features": make()})[
                "features"
            ]
            for part, make in makes.items()
        }
    of = {part: {name: found[part] for name, found in features.items()} for part in ("known", "unseen", "planted")}
    detectors = Detectors(Views(known, of["known"], patients[~held_out]), SHIFT)
    calibration = detectors.calibrated(Views(unseen, of["unseen"], patients[held_out]), FALSE_ALARMS)
    return {
        "training_views": len(known),
        "held_out_views": len(calibration.scores),
        "control": detectors.shares(calibration.control),
        "found": power(copies, of["planted"], detectors, calibration.threshold),
        "same_patient": {
            name: same_patient(
                np.concatenate([found["known"][:, 0], found["unseen"][:, 0]]),
                np.concatenate([patients[~held_out], patients[held_out]]),
            )
            for name, found in features.items()
        },
    }


def page_table(rows: list[dict[str, Any]]) -> str:
    """Markdown: what share of the planted copies of each kind is found, by set and detector, and who sets the threshold."""
    names = list(rows[0]["control"]["by"])
    lines = ["", "|---|" + "---|" * len(rows) * (1 + len(names))]
    lines[0] = (
        "| planted copies | "
        + " | ".join(f"{row['set']}: found | {' | '.join(f'by {name}' for name in names)}" for row in rows)
        + " |"
    )

    def line(title: str, shares: list[dict[str, Any]]) -> str:
        cells = [share for found in shares for share in (found["share"], *(found["by"][name] for name in names))]
        return f"| {title} | " + " | ".join(f"{100 * cell:.0f} %" for cell in cells) + " |"

    for found in zip(*(row["found"] for row in rows), strict=True):
        lines.append(line(found[0]["kind"], list(found)))
    lines.append(line("unseen patients' views (no copies)", [row["control"] for row in rows]))
    facts = "; ".join(
        f"{row['set']}: {row['training_views']} training views, {row['held_out_views']} views of patients whom nobody learnt from"
        for row in rows
    )
    pairs = " and ".join(
        f"{row['set']} {found['auroc']:.2f} ({found['low']:.2f} to {found['high']:.2f})"
        for row in rows
        for name, found in row["same_patient"].items()
        if name == "patient encoder"
    )
    return "\n".join(
        [*lines, "", f"{facts}. AUROC of the patient encoder for views of one patient against those of two: {pairs}."]
    )


def main() -> None:
    """Train, measure, write benchmarks/results/reidentification.json and the table of docs/privacy.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument(
        "--patients", type=int, default=10_000, help="at most so many patients of each set, drawn at random"
    )
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    work = arguments.work
    views, patients = kept(work / "busbra.npz", partial(busbra, arguments.images)).values()
    names = np.random.default_rng(SEED + 1).permutation(np.unique(patients))
    learnt = np.isin(patients, names[: len(names) // 2])
    encoders = {name: trained(name, views[learnt], patients[learnt], arguments.steps, work) for name in TRAININGS}
    count, rows = arguments.patients, []
    others = np.flatnonzero(~learnt)
    tested = others[drawn(patients[others], count)]
    sets: dict[str, Callable[[], Iterable[np.ndarray]]] = {
        "BUS-BRA": lambda: (views[tested], patients[tested]),
        "DDTI": lambda: kept(work / f"ddti_{count}.npz", partial(ddti, arguments.images, count)).values(),
    }
    for source, read in sets.items():
        folder = work / f"{source}_{arguments.steps}_{count}"
        folder.mkdir(exist_ok=True)
        file = folder / "row.json"
        if not file.is_file():
            write_json(measured(encoders, *read(), folder), file)
        rows.append({"set": source, **read_json(file)})
        print(rows[-1], flush=True)
        write_result(
            "reidentification", rows, steps=arguments.steps, size=SIZE, false_alarms=FALSE_ALARMS,
            learnt_views=int(learnt.sum()), learnt_patients=len(set(patients[learnt])),
        )  # fmt: skip
    write_on_page(PAGE, "reidentification", page_table(rows))


if __name__ == "__main__":
    main()
