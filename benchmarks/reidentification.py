"""Do the copy encoder and the patient encoder find planted copies of patients whom they never saw?

Both learn from half of BUS-BRA's patients with two views. Of the other half, and of all patients of DDTI, some play the
generator's training patients, whose views are altered and planted, and the others those whom it never saw, on whom the
threshold is set, at 1 % false alarms. The patient encoder is also asked whether two views are of one patient, which is what
an attacker with other views would do; the interval draws patients. Training continues where an interrupted run stopped.

    python -m benchmarks.reidentification --images DIR --steps 400 --work DIR

DIR holds `busbra/` as published and `ddti/` with `manifest.csv` (image_id, path, patient_id, organ). Views of 96 x 96 pixels.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import write_result
from workflow_scripts.core.errors import UserError
from workflow_scripts.privacy.copy_encoder import BATCH, CopyEncoder, CopyTraining, copy_features

SIZE, SHIFT, FALSE_ALARMS, SEED, HELD_OUT = 96, 8, 0.01, 0, 0.5
SAVE_EVERY = 20


class PatientEncoder(CopyEncoder):
    """The same of more pixels, with a layer more."""

    side = 64
    layers = ((1, 32, 2), (32, 64, 2), (64, 128, 2), (128, 128, 1))


class PatientTraining(CopyTraining):
    """The same for the patient encoder: one pair of views of each drawn patient (`patients`, (N,)).

    Half of the pairs are any two views of the patient, the others one view twice.
    Raises `UserError` for fewer than 4 patients.
    """

    encoder = PatientEncoder

    def __init__(self, views: np.ndarray, patients: np.ndarray, steps: int, seed: int, device: torch.device) -> None:
        super().__init__(views, steps, seed, device)
        # Rows sorted by patient: a patient's are `order[start : start + count]`.
        _, member, counts = np.unique(patients, return_inverse=True, return_counts=True)
        if len(counts) < 4:
            raise UserError(
                f"the patient encoder learns by contrast and needs at least 4 patients, there are {len(counts)}"
            )
        self.order = torch.from_numpy(np.argsort(member, kind="stable"))
        self.counts = torch.from_numpy(counts)
        self.starts = torch.from_numpy(np.cumsum(counts) - counts)

    def pairs(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows (B,) and (B,) of two views of each drawn patient."""
        drawn = torch.randperm(len(self.counts), generator=generator)[: min(BATCH, len(self.counts))]
        counts, starts = self.counts[drawn], self.starts[drawn]
        first, step, same = torch.rand((3, len(drawn)), generator=generator)
        place = (first * counts).long()
        # Another view of the patient: 1 to count - 1 places on, round and round.
        other = (place + 1 + (step * (counts - 1)).long()) % counts
        return self.order[starts + place], self.order[starts + torch.where(same < 0.5, place, other)]


def read_views(files: list[Path]) -> np.ndarray:
    """Images letterboxed to views, uint8 (N, SIZE, SIZE)."""
    from PIL import Image

    from workflow_scripts.data.profiles import letterbox, resize

    views = []
    for file in files:
        with Image.open(file) as picture:
            views.append(resize(letterbox(np.asarray(picture.convert("L"))), SIZE))
    return np.stack(views)


def busbra(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Views and patients of BUS-BRA's cases with two views."""
    with (folder / "busbra" / "bus_data.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    cases = [row["Case"] for row in rows]
    paired = [row for row in rows if cases.count(row["Case"]) == 2]
    files = [folder / "busbra" / "Images" / f"{row['ID']}.png" for row in paired]
    return read_views(files), np.array([row["Case"] for row in paired])


def ddti(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Views and patients of DDTI."""
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["organ"] == "thyroid"]
    return read_views([folder / row["path"] for row in rows]), np.array([row["patient_id"] for row in rows])


def trained(name: str, views: np.ndarray, patients: np.ndarray, steps: int, work: Path) -> Any:
    """A training run that is over, and its seconds per step."""
    device = torch.device("cpu")
    training = (
        CopyTraining(views, steps, SEED, device)
        if name == "copy encoder"
        else PatientTraining(views, patients, steps, SEED, device)
    )
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


def evidence(distance: np.ndarray) -> np.ndarray:
    """Nearness and nearness relative to the neighbours', (N, 2), of distances (N, n), nearest first."""
    return np.stack([-distance[:, 0], -distance[:, 0] / distance.mean(axis=1)], axis=1)


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


def measured(training: Any, views: np.ndarray, patients: np.ndarray) -> dict[str, Any]:
    """Shares of planted copies that are found among patients whom the encoder never saw."""
    from workflow_scripts.privacy import copies as privacy
    from workflow_scripts.privacy.planted import planted_copies, planted_rows
    from workflow_scripts.synthesis.neighbours import nearest

    names = np.random.default_rng(SEED).permutation(np.unique(patients))
    held_out = np.isin(patients, names[: round(HELD_OUT * len(names))])
    features = copy_features(training.network, views, training.device)
    known, own = features[~held_out], patients[~held_out]
    count = privacy.NEIGHBOURS
    most = int(np.unique(own, return_counts=True)[1].max())
    distance, rows = nearest(known, known, count + most)
    order = np.argsort(own[rows] == own[:, None], axis=1, kind="stable")[:, :count]
    scale = privacy.scale_of(evidence(np.take_along_axis(distance, order, axis=1)))
    # As in the audit: who has a picture that is also a training view is not unseen, and would raise the threshold.
    correlation = privacy.nearest_by_correlation(views[held_out], views[~held_out], SHIFT, 1)[0][:, 0]
    usable = privacy.really_unseen(correlation, patients[held_out])
    calibrating = patients[held_out][usable]
    unseen = scale.score(evidence(nearest(features[held_out][usable], known, count)[0]))[0]
    threshold = privacy.threshold_of(unseen, FALSE_ALARMS)
    chosen = planted_rows(len(known), SEED)
    found = {}
    for kind, altered in planted_copies(views[~held_out][chosen], SHIFT, SEED).items():
        near = nearest(copy_features(training.network, altered, training.device), known, count)[0]
        found[kind] = float((scale.score(evidence(near))[0] > threshold).mean())
    control = privacy.cross_fitted_alarms(unseen, calibrating, FALSE_ALARMS)
    return {
        "training_views": len(known),
        "held_out_views": len(unseen),
        "copies_of_each_kind": len(chosen),
        "control": float(control.mean()),
        "found": found,
        "same_patient": same_patient(features, patients),
    }


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    views, patients = busbra(arguments.images)
    names = np.random.default_rng(SEED + 1).permutation(np.unique(patients))
    learnt = np.isin(patients, names[: len(names) // 2])
    thyroids = ddti(arguments.images)
    rows = []
    for name in ("patient encoder", "copy encoder"):
        training = trained(name, views[learnt], patients[learnt], arguments.steps, arguments.work)
        for source, (pixels, people) in {
            "BUS-BRA": (views[~learnt], patients[~learnt]),
            "DDTI": thyroids,
        }.items():
            rows.append({"encoder": name, "set": source, **measured(training, pixels, people)})
            print(rows[-1], flush=True)
        write_result(
            "reidentification", rows, steps=arguments.steps, size=SIZE, false_alarms=FALSE_ALARMS,
            learnt_views=int(learnt.sum()), learnt_patients=len(set(patients[learnt])),
        )  # fmt: skip


if __name__ == "__main__":
    main()
