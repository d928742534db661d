"""The dataset card of a released synthetic set: Markdown with the front matter that dataset hubs read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from workflow_scripts.core.text import plain
from workflow_scripts.privacy.readings import NOBODY, Reading

METRICS = {
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "fid": "Fréchet distance",
    "fid_infinity": "Fréchet distance, extrapolated to infinitely many views",
    "kid": "KID",
    "mmd": "squared MMD, Gaussian kernel",
}
SETS = {
    "filtered": "released set, before copies were taken out",
    "unfiltered": "everything generated",
    "real": "views of held-out patients (what perfect samples would score)",
}


def dataset_card(
    title: str,
    licence: str,
    contact: str,
    organ: str,
    origin: str,
    counts: Mapping[str, int],
    size: int,
    privacy: Mapping[str, Any],
    metrics: Sequence[Mapping[str, str]],
    reading: Reading | None = None,
) -> str:
    """The card's Markdown.

    `counts`: generated, filtered, copies, text, unfit, released. `privacy`: the copy audit's summary. `metrics`: rows of
    metrics.csv (set, metric, batch, value). `reading`: a clinician's, if there is one. `origin`: empty, or the stamp of data
    that come from no patient.
    """
    stamp = f"**{plain(origin)}**: made from drawn phantoms, not from patients.\n\n" if origin else ""
    unfit = (
        f"| of the others, left out since a reader called them not fit to be shared | {counts['unfit']} |\n"
        if reading
        else ""
    )
    text = f"| of the others, left out since OCR found text in them | {counts['text']} |\n" if counts["text"] else ""
    audited = privacy["possible"]
    if not audited:
        stamp += (
            "**Not audited for copies**: no patient was held out from the generator, so no view could be judged.\n\n"
        )
    found = counts["copies"] if audited else "not audited"
    compared = (
        """Each
remaining view was compared with all training views, and left out if it comes closer to one than views of patients that
the generator never saw come."""
        if audited
        else """No view
was left out as a copy."""
    )
    source = "drawn phantom frames" if origin else "B-mode ultrasound frames"
    tags = ["synthetic", "ultrasound", *([origin.lower()] if origin else [])]
    front = {"pretty_name": _line(title), "tags": tags} | (
        {"license": "other", "license_name": _line(licence)} if licence else {}
    )
    header = "\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items())
    return f"""---
{header}
---
# {plain(title)}

{stamp}{counts["released"]} synthetic {plain(organ)} ultrasound views, greyscale PNG, {size} x {size} pixels. No image
is a recording: all were drawn by a diffusion model that learnt from {source}. `metadata.csv` names each file, its
organ and its number in the generated set. It holds no labels, no real views and no names or numbers of patients.

| | |
|---|---|
| origin | {plain(origin) if origin else "diffusion model trained on real views"} |
| licence | {plain(licence) if licence else "not chosen: ask before you use or pass on the set"} |
| contact | {plain(contact) if contact else "not given"} |

## How it was made
| step | views |
|---|---|
| generated | {counts["generated"]} |
| inside the manifold of the real views (filter) | {counts["filtered"]} |
| of these, flagged by the copy audit and left out | {found} |
{text}{unfit}| released | {counts["released"]} |

The filter keeps a generated view if its features lie within one of the real views' balls, whose radius is the
distance to the k-th nearest real view, scaled where the filter was calibrated on views of unseen patients. {compared}

## Quality
{_metric_table(metrics)}

Precision and recall with nearest-neighbour balls around disjoint reference batches of real views (mean ± standard
deviation over the batches), and around all training views; in brackets a 95 % interval over patients. All but KID,
MMD and what is extrapolated depend on the number of views, so compare sets of one size only.

## Reading
{plain(reading.text if reading else NOBODY)}

## Privacy
{_privacy(privacy)}

## Intended use
Pretraining and augmentation of models for research, and tests of software.

## Must not be used for
- diagnosis, treatment or any decision about a patient, or training of a product without proof on real data;
- attempts to find the people whose recordings the generator learnt from;
- statistics about disease, patients or devices: the set keeps the training set's biases and adds its own;
- passing the images off as recordings.
"""


def _metric_table(metrics: Sequence[Mapping[str, str]]) -> str:
    lines = ["| set | metric | reference batches | all training views |", "|---|---|---|---|"]
    for set_name, description in SETS.items():
        for metric, metric_name in METRICS.items():
            rows = [row for row in metrics if row["set"] == set_name and row["metric"] == metric]
            batches = [float(row["value"]) for row in rows if row["batch"] != ""]
            whole = [float(row["value"]) for row in rows if row["batch"] == ""]
            bounds = [
                f"{float(value):.3g}"
                for end in ("low", "high")
                for value in _values(metrics, set_name, f"{metric}_{end}")
            ]
            if rows:
                interval = f" ({' to '.join(bounds)})" if bounds else ""
                spread = f" ± {stdev(batches):.3g}" if len(batches) > 1 else ""
                batch_text = f"{mean(batches):.4g}{spread}" if batches else ""
                lines.append(
                    f"| {description} | {metric_name} | {batch_text} | {f'{whole[0]:.4g}{interval}' if whole else ''} |"
                )
    return "\n".join(lines)


def _values(metrics: Sequence[Mapping[str, str]], set_name: str, metric: str) -> list[str]:
    return [row["value"] for row in metrics if row["set"] == set_name and row["metric"] == metric]


def _privacy(privacy: Mapping[str, Any]) -> str:
    limits = f"""**What this does not show.** {plain(privacy["may_not_say"])}

**Caveats.** {plain(privacy["caveats"])}"""
    if not privacy["possible"]:
        return f"{plain(privacy['may_say'])}\n\n{limits}"
    from workflow_scripts.privacy.membership import WEIGHT_ATTACKS

    auc = privacy["membership_auc"]["filtered"]
    weights = "; ".join(
        f"{WEIGHT_ATTACKS[name]} {attack['auc']['value']:.2f} ({attack['auc']['low']:.2f} to {attack['auc']['high']:.2f})"
        for name, attack in privacy["generator"].items()
    )
    return f"""{plain(privacy["may_say"])}

Membership: training views lie nearer to the filtered set than held-out ones with probability {auc["value"]:.2f} (95 %
interval {auc["low"]:.2f} to {auc["high"]:.2f}; 0.5 is no difference). Whoever has the generator's weights, which are not
part of this set, could tell a training patient from a held-out one with these probabilities: {plain(weights)}.

{limits}"""


def _line(text: str) -> str:
    return " ".join(text.split())
