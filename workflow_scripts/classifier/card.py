"""The card that lies beside a classifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workflow_scripts.core.text import plain

SHOWN = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "recall": "sensitivity",
    "precision": "positive predictive value",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "mcc": "MCC",
}
SCORED_ON = {"original": "original labels, all views", "policy": "labels it was trained with, kept views"}
CALIBRATION = {
    "nll": "negative log-likelihood (nats)",
    "brier": "Brier score",
    "ece": "expected calibration error (10 equally wide bins)",
    "mean_probability": "mean probability",
}


def classifier_card(facts: Mapping[str, Any]) -> str:
    """Markdown from what classifier.json holds; an origin (for example PHANTOM) heads it when no patients are in it."""
    origin, (negative, positive), data = facts["origin"], map(plain, facts["classes"]), facts["data"]
    members, seeds = len(facts["members"]), len({member["seed"] for member in facts["members"]})
    folds = members // seeds
    calibration, novelty = facts["calibration"], facts["novelty"]
    stamp = f"> **{origin}**: made from drawn phantoms, not from patients. Its numbers say nothing about patients.\n>\n"
    warning = (
        "**Research software, not a medical device.** Not for diagnosis, treatment or any decision about a patient."
    )
    return f"""# Classifier of ultrasound views: {negative} or {positive}{f" ({origin})" if origin else ""}

{stamp if origin else ""}> {warning}

{members} networks ({facts["backbone"]}; folds: {folds}, seeds: {seeds}) of the experiment `{facts["experiment"]}`, whose
logits are averaged and divided by a temperature. Given a grey view of {facts["size"]} x {facts["size"]} pixels, the
output is the probability of *{positive}*; above {facts["decision"]} the prediction is *{positive}*.

## Use
```
python -m workflow_scripts.classifier.predict --model FOLDER FRAMES…
```
crops new frames (PNG, BMP, JPEG, TIFF, DICOM, folders of them) as the training frames were cropped and writes for each view

| column | |
|---|---|
| prediction, probability | the ensemble's, calibrated |
| lowest, highest | probabilities of the single networks, calibrated by the same temperature |
| agreement | share of the networks that decide as the ensemble does |
| distance_percentile | is the view like the training views? See below |

`classifier.onnx` needs no PyTorch: input `views`, uint8 (views, {facts["size"]}, {facts["size"]}), 0 is black; outputs
`probability` (views), `member_probabilities` (views, {members}), `embeddings` (views, {members}, {novelty["embedding"]}).
`ensemble.safetensors` holds the same networks for PyTorch; the two agree to 1e-4.

## Data
| | |
|---|---|
| views | {data["views"]} ({data["negative"]} {negative}, {data["positive"]} {positive}, original labels) |
| patients | {data["patients"]} |
| crop profiles | {", ".join(facts["crop_profiles"])} |

## Performance out of fold
Each view is predicted by the networks whose training did not see its patient, one per seed ({seeds} of {members}).

{_performance(facts["performance"])}

The interval redraws patients, not views, and takes the networks as given. Labels that were cleaned with the help of
models of the same views flatter whatever is scored on them; the original labels do not, but hold the errors that
cleaning is meant to take out.

## Calibration
Temperature {facts["temperature"]:.3f}, which minimises the negative log-likelihood out of fold ({SCORED_ON[facts["truth"]]};
{calibration["after"]["positives"]:.1%} of these are {positive}).

| | before | after |
|---|---|---|
{_calibration(calibration)}

"After" is measured on folds that the temperature was not fitted on. A temperature makes probabilities more or less
cautious. It does not move them towards the share of {positive} views where you use it: a probability holds for views
among which {positive} ones are as frequent as here.

Out of fold a view's logits are averaged over the seeds ({seeds}), in use over all networks ({members}). Each network has
learnt from as many patients either way, but averaging more leaves less of the networks' noise, which the temperature was
fitted to allow for: in use, probabilities are, if anything, a little too close to 0.5. This cannot be measured without
further patients.

## Is a new view like the training views?
For each network, the distance of the view's features (scaled to length 1) to the {novelty["neighbours"]}th nearest view that
the network was trained on is held against the same distances of views of patients that this network never saw.
`distance_percentile` is the percentage of those that lie nearer, averaged over the networks. Above 95 the view is unlike
what the classifier learnt from (another device, organ, crop or artefact): do not rely on its probability. A low
percentile is no proof of the contrary.

## Intended use
Research on methods, comparisons with other classifiers, tests of software.

## Limits
- Learnt from the devices, crops and patients above; nothing is known about others.
- The labels are readings of images; the classifier knows no other truth.
- Heat maps show where a network's evidence lies, not whether it is right.
- Weights, and the features in `reference.safetensors`, are derived from patients' views and may reveal who was among
  them. Treat the folder as patient data.
"""


def _performance(performance: Mapping[str, Mapping[str, Any]]) -> str:
    header = "| | " + " | ".join(f"{SCORED_ON[name]}" for name in performance) + " |"
    lines = [header, "|---" * (1 + len(performance)) + "|"]
    lines.append("| views | " + " | ".join(str(scored["views"]) for scored in performance.values()) + " |")
    for metric, title in SHOWN.items():
        lines.append(f"| {title} | " + " | ".join(_cell(scored, metric) for scored in performance.values()) + " |")
    return "\n".join(lines)


def _cell(scored: Mapping[str, Any], metric: str) -> str:
    if scored[metric] is None:
        return "not defined"
    if metric != "accuracy":
        return f"{scored[metric]:.3f}"
    return f"{scored[metric]:.3f} (95 % interval {scored['accuracy_low']:.3f} to {scored['accuracy_high']:.3f})"


def _calibration(calibration: Mapping[str, Mapping[str, float]]) -> str:
    return "\n".join(
        f"| {title} | {calibration['before'][key]:.4f} | {calibration['after'][key]:.4f} |"
        for key, title in CALIBRATION.items()
    )
