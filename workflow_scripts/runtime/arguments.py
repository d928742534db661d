"""The vocabulary of the command lines: every input, output and parameter that a rule may name, declared once.

A rule's inputs and parameters become flags of the same name and its outputs `--output-<name>` (`stage` in
rules/common.smk makes the command with `flags`); a stage's parser says which of them it takes:

    parser = stage_parser(__doc__)
    add_inputs(parser, "views index labels folds weights*")
    add_outputs(parser, "predictions weights+")
    add_parameters(parser, "seed classes backbone layout")

A name ends in `?` where it may be left out, `*` for any number of values and `+` for one or more.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from workflow_scripts.study.config.names import BASELINES, GROUPS, TABLES

# What files hold, as inputs and as outputs.
FILES = {
    "agreement": "CSV: how far a clinician agrees with the labels",
    "archive": "the released set, .zip",
    "backbone": "backbone, .safetensors under timm's keys",
    "bias": "CSV by class: recorded epochs and share of evaluations that flag",
    "by_patient": "CSVs of predictions with folds of patients, one per seed",
    "by_view": "CSVs of predictions with folds of views, one per seed",
    "calibration": "reliability diagrams, .png",
    "canaries": "CSV of the canaries that each snapshot returns: step, canary, planted, …, chance, exposure, returned",
    "claims": "CSV of the paper's claims and what the run says of each",
    "complete": "CSV of the original labels",
    "copy_planted": "encoders' features of planted copies, float32 (kinds, copies, networks, 1, D)",
    "copy_real": "encoders' features of the labelled views and crops of them, float32 (N, networks, crops, D)",
    "copy_synthetic": "encoders' features of the synthetic views, float32 (N, networks, 1, D)",
    "csv": "the table, .csv",
    "curve": "CSVs of what other filter rules keep, one per generator",
    "decisions": "CSV of a clinician's decisions, as the review page writes it",
    "denoising": "CSV of how well the generator denoises each real view",
    "figure": "the figure, .png",
    "efficiency": "CSV of a probe's predictions learnt from shares of the patients: share, draw, seed, view_id, …",
    "external": "CSVs of predictions of external views, one per external set",
    "external_index": "CSV indexes of the external views, one per external set",
    "external_views": "stores of external views, uint8 .npy, one per external set",
    "figures": "pictures of the front page, .png",
    "features": "features, float32 .npy (N, D), one file per store",
    "filter": "CSV of the manifold filter: index, inside, distance_ratio",
    "flipped": "CSV of the flipped labels",
    "folder": "a folder: of images to read, or to write",
    "folds": "CSV of a seed's folds: view_id, patient_id, fold",
    "frames": "CSV of the frames that were drawn",
    "heads": "projection head and organ head, .safetensors",
    "holdout": "CSV of the patients that the generator never sees: patient_id",
    "html": "the page, .html",
    "index": "CSV index of the views: view_id, image_id, patient_id, organ, label, view",
    "key": "CSV of what each view of the reading page is: page, view, source, name",
    "labellers": "classifiers that label the synthetic views, .safetensors, one per fold",
    "labels": "CSV of a label set: view_id, label, keep",
    "losses": "CSVs of the audit's losses: view_id, fold, epoch, loss",
    "manifest": "manifest of the study, .csv",
    "masks": "parenchyma of the labelled views, .npy (N, side, side), 0 outside",
    "md": "the table in Markdown",
    "measures": "CSV of the generator's snapshots, by monitor_diffusion",
    "metrics": "metrics of a training run (.jsonl) or of a synthetic set (.csv)",
    "numbers": "numbers of each table, .csv",
    "model": "Diffusers folder of the generator",
    "organ_sides": "CSV of predictions by organ side",
    "oof": "CSVs of out-of-fold probabilities: view_id, fold, probability",
    "page": "the page, .html",
    "published": "published Inception features of real views, .npz with the array arr_0 (N, D)",
    "pages": "pages that the front page links to, .html",
    "pairs": "CSV of pairs of near-duplicates",
    "parameters": "every parameter of a run, .json",
    "patients": "CSV of predictions by patient",
    "patient_key": "file with the secret key of the hashes that replace patient and image ids",
    "phantoms": "CSV of the drawn phantoms; its presence means that the frames are drawn",
    "planted": "CSV of the canaries: canary, planted, view_id, patient_id, row, column",
    "predictions": "CSV of predictions, one row per view and seed",
    "privacy": "CSV of the copy audit, one row per synthetic view",
    "real": "features of the labelled views, float32 (N, D)",
    "real_index": "CSV index of the labelled views",
    "real_text": "CSV of the text that was found in the real views",
    "real_views": "store of the labelled views, uint8 .npy",
    "readings": "CSV of a clinician's readings of generated and real views, as the reading page writes it",
    "scores": "CSV of how well the audit finds planted errors",
    "shard": "one shard of the synthetic views, uint8 .npy",
    "shards": "the shards in order, uint8 .npy",
    "shares": "CSV of the share of heat on markers (figure 5)",
    "shortcuts": "CSV of the shortcut audit, one row per test; its page lies beside it",
    "sheet": "images and the views drawn of them, .npy",
    "sheets": "images and the views drawn of them, .npy, one per run",
    "summaries": "summaries of the privacy audits, .json, one per generator",
    "summary": "summary of the privacy audit, .json",
    "study_predictions": "CSVs of the study's own out-of-fold predictions, as --predictions of its tables",
    "sweep": "CSV of what other thresholds find",
    "synthetic": "features of the synthetic views, float32 (N, D)",
    "synthetic_index": "CSV index of the synthetic views",
    "synthetic_views": "store of the synthetic views, uint8 .npy",
    "tex": "the table in LaTeX",
    "text": "CSV of the text that was found in views: where it is, and what it looks like",
    "training": "CSV by fold of how far fine-tuning moved the weights, and of its last losses",
    "views": "store of views, uint8 .npy (N, side, side)",
    "votes": "CSV of the audit's votes: view_id, label, votes, evaluations, suspicious",
    "weights": "weights of a network",
}


def _choice(*choices: str, help: str, default: str | None = None) -> dict[str, Any]:
    return {"choices": choices, "help": help, **({} if default is None else {"default": default})}


# Parameters; with a default they may be left out.
PARAMETERS: dict[str, dict[str, Any]] = {
    "arms": {"nargs": "+", "help": "names of the arms, in the order of --weights"},
    "asked_classes": {"nargs": "*", "default": None, "help": "classes that the generator is conditioned on; none: unconditional"},
    "backbone": {"default": "resnet18", "help": "timm network"},
    "baseline": _choice(*BASELINES, help="which baseline"),
    "batch_size": {"type": int, "default": 64, "help": "views per forward pass"},
    "blur": {"default": True, "help": "blur what lies outside the boxes, where patients' names may stand"},
    "canaries": {"type": int, "help": "training patients who carry a canary; as many codes are kept out"},
    "classes": {"nargs": 2, "metavar": ("NEGATIVE", "POSITIVE"), "help": "the two label names"},
    "clip_frames": {"default": "first", "help": "frames of a clip where the manifest does not say: first, all, every <n>"},
    "controls": {"type": float, "default": 1.0, "help": "unsuspicious views per suspicious one of a label"},
    "exclude_fold": {"type": int, "default": None, "help": "leave the patients of this fold of --folds out of everything"},
    "experiment": {"help": "name of the experiment"},
    "experiments": {"nargs": "+", "help": "names of the experiments, in the order of --predictions"},
    "external": {"help": "name of the external set"},
    "false_alarms": {"type": float, "default": 0.01, "help": "share of held-out views that the copy detector may flag"},
    "fold": {"type": int, "help": "the fold that the networks did not see"},
    "fold_count": {"type": int, "help": "number of folds"},
    "groups": {"nargs": "+", "choices": GROUPS, "help": "columns of the index whose values are compared"},
    "holdout_protocol": _choice("none", "per_fold", default="none", help="whether generator and pretraining saw test patients"),
    "images": {"type": int, "help": "images of all shards together"},
    "layout": _choice(
        "scratch", "scratch_fan_in", "torchvision", "uscl", "timm", "original", default="scratch",
        help="key layout of --weights; scratch and scratch_fan_in start from random weights",
    ),
    "margin": {"type": float, "default": 2.0, "help": "points within which two rows do the same"},
    "metric_k": {"type": int, "default": 3, "help": "neighbour that sets the radii of precision and recall"},
    "mode": _choice("blind", "open", default="blind", help="whether label and votes are shown after or before the decision"),
    "names": {"nargs": "*", "default": [], "help": "names of the files given, in their order"},
    "network": _choice("inception", "encoder", "timm", help="kind of the embedding network"),
    "normalisation": {
        "type": float, "nargs": "*", "default": [],
        "help": "mean and deviation that the network's inputs have been normalised with, or three of each (default: 0.5 0.25)",
    },
    "on_bad_frame": _choice("fail", "skip", default="fail", help="what to do with frames that cannot be read or cropped"),
    "on_text": _choice("report", "blank", "fail", default="report", help="what to do with text that is burnt into views"),
    "organ": {"help": "organ of the views"},
    "organs": {"nargs": "+", "help": "organs of the study; their order gives the labels of the organ head"},
    "origin": {"default": "", "help": "stamp for views that do not come from patients: PHANTOM"},
    "policy": _choice("filtered", "flipped", "reviewed", help="what becomes of doubtful views"),
    "positive": {"help": "name of the positive class"},
    "percents": {"type": int, "nargs": "+", "help": "percentage of the training patients of each of --experiments"},
    "prevalence": {"type": float, "default": None, "help": "share of positives for PPV and NPV (default: the study's)"},
    "pretraining_seeds": {
        "type": int, "default": 1,
        "help": "pretrainings of each run; fine-tuning seed s started from number s modulo this",
    },
    "profiles": {"help": "JSON of the crop profiles, by the manifest's column device"},
    "protocol": {"default": "", "help": "JSON of what the numbers were made with, by study.protocol; empty: not said"},
    "reading_views": {"type": int, "default": 50, "help": "generated views to read, among as many real ones"},
    "record": _choice(
        "training", "evaluation", default="training",
        help="losses of the training batches, or of a pass over the clean views after each epoch",
    ),
    "reference_numbers": {"default": False, "help": "show the paper's numbers beside ours"},
    "resize": _choice("clean", "legacy_tensorflow", default="clean", help="how Inception's input is resized"),
    "root": {"type": Path, "help": "folder below which every frame lies"},
    "rows": {"help": "JSON list of a table's rows {name, paper, experiment, init, samples, switches, parameters}"},
    "seed": {"type": int, "default": 0, "help": "seed of every draw"},
    "seen_without_labels": {"default": False, "help": "external patients may be in the study without a label"},
    "sensitivities": {"type": float, "nargs": "*", "default": [], "help": "sensitivities to choose thresholds for, 0 to 1"},
    "specificities": {"type": float, "nargs": "*", "default": [], "help": "specificities to choose thresholds for, 0 to 1"},
    "seeds": {"type": int, "nargs": "+", "help": "the seeds, in the order of the files that are given for each"},
    "select": _choice("last", "best", "least_copying", help="the rule that chooses a checkpoint"),
    "set": {"help": "`labelled`, or an organ: its frames without a label"},
    "set_shares": {"type": float, "nargs": "*", "default": [], "help": "share of each store an epoch draws (default: all)"},
    "sha256": {"default": "", "help": "expected SHA-256; empty records the one of the first fetch"},
    "shard": {"type": int, "default": 0, "help": "which shard to draw, from 0"},
    "shard_count": {"type": int, "default": 1, "help": "number of shards"},
    "share": {"type": float, "help": "share of the patients to hold out, 0 to 0.5"},
    "shift": {"type": int, "default": 8, "help": "largest shift in pixels at which the copy detector aligns two views"},
    "shown": {"type": int, "default": 48, "help": "views, frames or pairs in the figure"},
    "size": {"type": int, "default": 256, "help": "side of the views in pixels"},
    "snapshot_every": {"type": int, "default": 0, "help": "steps between copies of the averaged weights; 0: none"},
    "split_by": _choice(
        "patient", "view", "scanner", "centre", default="patient", help="what shares a fold: a patient's views, or a scanner's, "
        "or a centre's; view: nothing does",
    ),
    "rate_factors": {
        "type": float, "nargs": "*", "default": [],
        "help": "factors on both learning rates, of which each fold takes the best on an inner split; none: as they are",
    },
    "rate_holdout": {"type": float, "default": 0.25, "help": "share of a fold's training patients that the inner split tests"},
    "spread": _choice("released", "seeds", "runs", default="released", help="what ± means"),
    "synthetic_labels": _choice(
        "asked", "relabelled", "shuffled", default="asked",
        help="labels of the synthetic views: their class, the one that --labellers give, or their class in random order",
    ),
    "synthetic_shares": {"type": float, "nargs": "+", "help": "share of synthetic views that each network learns from"},
    "synthetic_percent": {
        "type": int, "default": 0, "help": "synthetic views to learn from, in percent of the fold's real training views",
    },
    "table": _choice(*TABLES, help="which table"),
    "tables": {"nargs": "+", "choices": (*TABLES, "generation"), "help": "the tables, in the order of --numbers"},
    "target_organ": {"help": "the organ whose views carry labels"},
    "threshold": {"type": float, "default": 1.0, "help": "loss above which an epoch flags a view"},
    "title": {"help": "title of the figure, or what the table shows"},
    "titles": {"default": "{}", "help": "JSON of the titles of external sets, by name"},
    "trained": {"nargs": "*", "default": [], "help": "the experiments of --training, in the order of its files"},
    "training_percent": {"type": int, "default": 100, "help": "percentage of the training patients to learn from"},
    "truth": _choice(
        "original", "policy", default="original",
        help="labels to calibrate on: the original ones of all views, or those that the networks learnt",
    ),
    "url": {"default": "", "help": "where the file is, https or file; empty if it is supplied manually"},
}  # fmt: skip


def add_inputs(parser: argparse.ArgumentParser, names: str) -> None:
    """Add flags for files that the stage reads."""
    group = parser.add_argument_group("inputs")
    for name, suffix in _split(names):
        _declare(parser, "inputs", name)
        _add_file(group, name, name, suffix)


def add_outputs(parser: argparse.ArgumentParser, names: str) -> None:
    """Add `--output-<name>` flags for files that the stage writes."""
    group = parser.add_argument_group("outputs")
    for name, suffix in _split(names):
        _add_file(group, f"output_{name}", name, suffix)


def add_parameters(parser: argparse.ArgumentParser, names: str) -> None:
    """Add flags for parameters; those without a default in the vocabulary are required."""
    group = parser.add_argument_group("parameters")
    for name, suffix in _split(names):
        _declare(parser, "parameters", name)
        options = {**PARAMETERS[name]}
        if suffix in ("*", "+"):
            options |= {"nargs": suffix}
            options.setdefault("default", [] if suffix == "*" else None)
        elif suffix == "?":
            options["default"] = None
        required = "default" not in options or (suffix == "+" and options["default"] is None)
        shown = options.get("default")
        text = options.pop("help") + (f" (default: {shown})" if shown not in (None, "", []) else "")
        group.add_argument(_flag(name), required=required, help=text.replace("%", "%%"), **_kind(options))


def declared(arguments: argparse.Namespace, kind: str) -> dict[str, Any]:
    """The values of the stage's declared `inputs` or `parameters`, by name."""
    return {name: getattr(arguments, name) for name in getattr(arguments, f"declared_{kind}", ())}


def flags(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The words of a command line for parameters; the inverse of a stage's parser.

    Nested mappings become dotted flags, lists several words. What is None or empty text is left out: the flag's own
    default says so. A value is joined to its flag, so that it may begin with a dash.
    """
    words: list[str] = []
    for key, value in values.items():
        name = prefix + key.replace("_", "-")
        if value is None or value == "":
            continue
        if isinstance(value, Mapping):
            words += flags(value, f"{name}.")
        elif isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, (list, tuple)):
            words += [f"--{name}", *map(str, value)]
        else:
            words.append(f"--{name}={value}")
    return words


def _split(names: str) -> Iterable[tuple[str, str]]:
    for word in names.split():
        name = word.rstrip("?*+")
        yield name, word[len(name) :]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _declare(parser: argparse.ArgumentParser, kind: str, name: str) -> None:
    parser.set_defaults(**{f"declared_{kind}": (*(parser.get_default(f"declared_{kind}") or ()), name)})


def _kind(options: dict[str, Any]) -> dict[str, Any]:
    return (
        {"action": argparse.BooleanOptionalAction, **options} if isinstance(options.get("default"), bool) else options
    )


def _add_file(group: argparse._ArgumentGroup, destination: str, name: str, suffix: str) -> None:
    options: dict[str, Any] = {"type": Path, "help": FILES[name], "required": suffix in ("", "+")}
    if suffix in ("*", "+"):
        options["nargs"] = suffix
    if suffix == "*":
        options["default"] = []
    group.add_argument(_flag(destination), **options)
