"""Pack the networks of an experiment into one calibrated classifier for new frames, with a model card.

The networks of all folds and seeds become one ensemble, whose probability is the sigmoid of their mean logit over a
temperature. The temperature is fitted on out-of-fold predictions: a view's mean logit over the seeds, each from the
network that did not see its patient. That represents the ensemble in use, since its networks have learnt from as many
patients; but it averages fewer of them (seeds, not seeds x folds) and so holds more of their noise, for which the
temperature makes allowance: in use, probabilities are if anything too close to 0.5.

The folder holds ensemble.safetensors, classifier.onnx, reference.safetensors (what new views are compared with),
classifier.json and README.md, the model card. `python -m workflow_scripts.classifier.predict` uses it.

    python -m workflow_scripts.classifier.pack_classifier --experiment imagenet-flipped --views views/labelled.npy \\
        --index views/labelled.csv --predictions seed0.csv seed1.csv --weights seed*_fold*.safetensors \\
        --classes homogeneous inhomogeneous --profiles '{"whole": {"kind": "none"}}' --size 256 --output-folder classifier
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import progress, say
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import add_device, run, stage_parser

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch

    from workflow_scripts.classifier.ensemble import Ensemble
    from workflow_scripts.networks.backbone import Classifier

DESCRIPTION, CARD = "classifier.json", "README.md"
ENSEMBLE, ONNX, REFERENCE = "ensemble.safetensors", "classifier.onnx", "reference.safetensors"
# What all members must have in common.
SHARED = ("backbone", "normalisation", "classes", "settings", "layout")
# A network repeats its own predictions up to rounding, on any device; another network's differ by more.
SAME_PROBABILITY = 0.05
SAME_ONNX = 1e-4


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "predictions+ weights+ views index")
    add_outputs(parser, "folder")
    add_parameters(parser, "experiment profiles size classes truth origin")
    add_device(parser)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Load, check, embed, calibrate, write."""
    import numpy as np
    import pandas as pd
    import torch

    from workflow_scripts.classifier.card import classifier_card
    from workflow_scripts.classifier.ensemble import Ensemble, export_onnx, save_ensemble
    from workflow_scripts.classifier.novelty import NEIGHBOURS
    from workflow_scripts.core.files import atomic_directory, read_csv, sha256, write_json, write_text
    from workflow_scripts.core.store import ViewStore
    from workflow_scripts.data.crop_views import read_profiles
    from workflow_scripts.finetuning.calibration import calibration, cross_fitted, fit_temperature, pool
    from workflow_scripts.finetuning.predictions import DECISION, check_predictions
    from workflow_scripts.networks.backbone import library_versions, load_classifier
    from workflow_scripts.runtime.device import select_device

    device = select_device(arguments.device, arguments.threads)
    profiles = read_profiles(arguments.profiles)
    store = ViewStore.open(arguments.views, arguments.index)
    index, patients = store.index, store.patients
    if store.side != arguments.size:
        raise UserError(f"{arguments.views} holds views of side {store.side}, but --size is {arguments.size}")
    table = pd.concat([read_csv(path) for path in arguments.predictions], ignore_index=True)
    check_predictions({arguments.experiment: table}, arguments.classes)
    require_grouped(table, index, arguments.experiment)

    loaded = sorted(
        [(*load_classifier(path), path) for path in arguments.weights],
        key=lambda member: (member[1].get("seed", -1), member[1].get("fold", -1)),
    )
    inputs = {"views": sha256(arguments.views), "index": sha256(arguments.index)}
    require_members([(parameters, path) for _, parameters, path in loaded], table, arguments.classes, inputs)
    first = loaded[0][1]
    networks = [network for network, _, _ in loaded]
    runs = [(int(parameters["seed"]), int(parameters["fold"])) for _, parameters, _ in loaded]

    probability = by_view(table, index, "probability")
    folds = by_view(table, index, "fold")
    held_out = np.stack([folds[seed].to_numpy() == fold for seed, fold in runs])
    recorded = np.stack([probability[seed].to_numpy() for seed, _ in runs])
    reference = reference_tensors(networks, store.pixels, held_out, recorded, arguments.weights, device)

    pooled = pool(probability.to_numpy())
    positive = arguments.classes[1]
    truths = {"original": (np.ones(len(index), bool), index["label"].to_numpy() == positive)}
    if (policy := policy_truth(table, index, positive)) is not None:
        truths["policy"] = policy
    if arguments.truth not in truths:
        raise UserError("the label policy differs between the seeds, so there is no single truth; use --truth original")
    scored, truth = truths[arguments.truth]
    temperature = fit_temperature(pooled[scored], truth[scored])
    cross = cross_fitted(pooled[scored], truth[scored], folds.to_numpy()[scored, 0])
    say(f"{len(networks)} networks, {len(index)} views, temperature {temperature:.3f}")

    ensemble = Ensemble(networks, temperature).cpu().eval()
    with atomic_directory(arguments.output_folder) as folder:
        shared = {key: first.get(key, []) for key in SHARED}
        save_ensemble(ensemble, {**shared, "runs": runs, "size": arguments.size}, folder / ENSEMBLE)
        save_reference(reference, folder / REFERENCE)
        notes = {
            "classes": ", ".join(arguments.classes), "origin": arguments.origin,
            "use": "Research software, not a medical device",
        }  # fmt: skip
        export_onnx(ensemble, arguments.size, notes, folder / ONNX)
        difference = onnx_difference(ensemble, folder / ONNX, torch.from_numpy(np.array(store.pixels[:5])))
        say(f"ONNX and PyTorch differ by at most {difference:.1g}")
        if not difference <= SAME_ONNX:
            raise UserError(f"the ONNX export of {first['backbone']} differs from PyTorch by {difference:.2g}")
        facts = {
            **shared,
            "experiment": arguments.experiment,
            "origin": arguments.origin,
            "size": arguments.size,
            "crop_profiles": profiles,
            "decision": DECISION,
            "temperature": temperature,
            "truth": arguments.truth,
            "members": [
                {"seed": seed, "fold": fold, "sha256": sha256(path)}
                for (seed, fold), (_, _, path) in zip(runs, loaded, strict=True)
            ],
            "novelty": {"neighbours": NEIGHBOURS, "embedding": reference["member0.embeddings"].shape[1]},
            "data": {
                "views": len(index),
                "patients": len(set(patients)),
                "negative": int((index["label"] != positive).sum()),
                "positive": int((index["label"] == positive).sum()),
            },
            "performance": {
                name: performance(pooled[rows], labels[rows], patients[rows]) for name, (rows, labels) in truths.items()
            },
            "calibration": {
                "before": calibration(pooled[scored], truth[scored]),
                "after": calibration(cross, truth[scored]),
            },
            "files": {name: sha256(folder / name) for name in (ENSEMBLE, ONNX, REFERENCE)},
            "sources": {**inputs, "predictions": [sha256(path) for path in arguments.predictions]},
            "versions": library_versions(),
            "code_version": arguments.code_version,
        }
        write_json(facts, folder / DESCRIPTION)
        write_text(classifier_card(facts), folder / CARD)


def require_grouped(table: pd.DataFrame, index: pd.DataFrame, experiment: str) -> None:
    """Raise `UserError` unless the predictions are of the views of `index`, with each patient in one fold per seed."""
    if set(table["view_id"]) != set(index["view_id"]):
        raise UserError(f"the predictions of {experiment} are not of the views of --index; fine-tune it again")
    places = table.drop_duplicates(["seed", "patient_id", "fold"])
    split = places[places.duplicated(["seed", "patient_id"])]
    if len(split):
        patient, seed = split.iloc[0][["patient_id", "seed"]]
        raise UserError(
            f"{experiment}: patient {patient} is in more than one fold of seed {seed}, so no prediction is out of"
            " fold; a classifier calibrated on these would be too bold. Choose an experiment with folds of patients"
        )


def require_members(
    members: Sequence[tuple[Mapping[str, Any], Path]], table: pd.DataFrame, classes: Sequence[str],
    inputs: Mapping[str, str],
) -> None:  # fmt: skip
    """Raise `UserError` unless the weights are one network per seed and fold of `table`, alike and trained on these views."""
    first, first_path = members[0]
    for parameters, path in members:
        for key in SHARED:
            if parameters.get(key) != first.get(key):
                raise UserError(f"{path} and {first_path} differ in {key}: they are of different experiments")
        for key, digest in inputs.items():
            if parameters.get("inputs", {}).get(key) != digest:
                raise UserError(f"{path} was trained with other --{key}; fine-tune the experiment again")
    if first.get("classes") != list(classes):
        raise UserError(f"{first_path} tells {first.get('classes')} apart, not {list(classes)}")
    given = [(parameters.get("seed"), parameters.get("fold")) for parameters, _ in members]
    wanted = sorted(set(zip(table["seed"].tolist(), table["fold"].tolist(), strict=True)))
    if given != wanted:
        raise UserError(f"--weights are of the seeds and folds {given}, --predictions of {wanted}; both need them all")


def by_view(table: pd.DataFrame, index: pd.DataFrame, column: str) -> pd.DataFrame:
    """A column of the predictions with one row per view, in the order of `index`, and one column per seed."""
    return table.pivot_table(column, "view_id", "seed", aggfunc="first").loc[index["view_id"]]


def policy_truth(table: pd.DataFrame, index: pd.DataFrame, positive: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Which views the label policy keeps, and whether they are positive, bool (N,); None where seeds differ in it."""
    labels, kept = by_view(table, index, "label_policy"), by_view(table, index, "kept")
    if any(part.ne(part.iloc[:, 0], axis=0).any(axis=None) for part in (labels, kept)):
        return None
    return kept.to_numpy()[:, 0] == 1, labels.to_numpy()[:, 0] == positive


def performance(probability: np.ndarray, truth: np.ndarray, patients: np.ndarray) -> dict[str, float | None]:
    """Metrics of probabilities (N,) with the patients' 95 % interval of accuracy; None where one is not defined."""
    import numpy as np

    from workflow_scripts.core.statistics import patient_bootstrap
    from workflow_scripts.finetuning.metrics import scores
    from workflow_scripts.finetuning.predictions import DECISION

    decision = probability > DECISION
    _, patient = np.unique(patients, return_inverse=True)
    correct, views = np.bincount(patient, weights=decision == truth), np.bincount(patient)
    low, high = patient_bootstrap(correct[:, None], views[:, None])
    values = {**scores(truth, decision, probability), "accuracy_low": low, "accuracy_high": high}
    return {"views": len(truth)} | {name: None if np.isnan(value) else value for name, value in values.items()}


def reference_tensors(
    networks: Sequence[Classifier], views: np.ndarray, held_out: np.ndarray, recorded: np.ndarray,
    paths: Sequence[Path], device: torch.device,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Per member: unit embeddings of the views it could learn from, and the sorted distances of those it could not.

    `held_out` bool and `recorded` probabilities, (M, N), of the views in each member's own fold. Raises `UserError`
    where a member does not give the recorded probabilities of its fold.
    """
    import numpy as np
    import torch

    from workflow_scripts.classifier.ensemble import embed
    from workflow_scripts.classifier.novelty import neighbour_distances, unit_length
    from workflow_scripts.finetuning.calibration import sigmoid

    resident = torch.from_numpy(np.array(views)).to(device)
    tensors = {}
    for number, network in enumerate(progress(networks, "embedding", "network", len(networks))):
        features, logits = embed(network.to(device), resident)
        left_out = held_out[number]
        difference = np.abs(sigmoid(logits.numpy()) - recorded[number])[left_out].max()
        if difference > SAME_PROBABILITY:
            raise UserError(
                f"{paths[number].parent}: network {number} does not give the predictions of its fold (they differ by up"
                f" to {difference:.2f}); --weights and --predictions are of different runs"
            )
        embeddings = unit_length(features.numpy())
        tensors[f"member{number}.embeddings"] = embeddings[~left_out]
        distances = neighbour_distances(embeddings[left_out], embeddings[~left_out])
        tensors[f"member{number}.distances"] = np.sort(distances).astype(np.float32)
    return tensors


def save_reference(tensors: Mapping[str, np.ndarray], path: Path) -> None:
    """Write arrays as safetensors, atomically."""
    from safetensors.numpy import save_file

    from workflow_scripts.core.files import atomic_path

    with atomic_path(path) as temporary:
        save_file(dict(tensors), temporary)


def onnx_difference(ensemble: Ensemble, path: Path, views: torch.Tensor) -> float:
    """The largest difference of any output of the ONNX file and of PyTorch, on these views together and on the first."""
    import numpy as np
    import onnxruntime
    import torch

    from workflow_scripts.classifier.ensemble import INPUT

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    differences = []
    for batch in (views, views[:1]):
        with torch.inference_mode():
            expected = ensemble(batch)
        for given, wanted in zip(session.run(None, {INPUT: batch.numpy()}), expected, strict=True):
            differences.append(np.abs(given - wanted.numpy()).max())
    return float(np.max(differences))


if __name__ == "__main__":
    run(main, parser())
