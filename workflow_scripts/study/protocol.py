"""What a study's numbers were made with, in words for captions, and what of it differs from the paper.

The paper's numbers stand beside ours in the tables; whoever compares them must see which choices differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workflow_scripts.study.config.names import BASELINES, SYNTHETIC_SETS
from workflow_scripts.study.experiments import backbone_of, normalisation_of

Facts = Mapping[str, Any]

# The paper's value of each fact, and how a difference is told; of what the paper does not say (number of sampling steps,
# resizing) the released code's value.
CLASSIFICATION = {
    "backbone": ("resnet18", "backbone {ours} (the paper: {paper})"),
    "normalisation": ("0.5, 0.25", "input normalised by {ours} (the paper: {paper})"),
    "holdout": ("none", "generator and pretraining see no test patient (the paper: they see their pixels)"),
    "split_by": ("patient", "folds that split patients (the paper: none does)"),
    "folds": (3, "{ours} folds (the paper: {paper})"),
    "seeds": (4, "{ours} seeds (the paper: {paper})"),
    "spread": ("released", "± over the values of `tables.spread: {ours}` (the paper: as its code)"),
}
GENERATION = {
    "held_out": (0, "{ours:.0%} of the patients held out from the generator (the paper: none)"),
    "checkpoint": ("last", "checkpoint: {ours} (the paper: {paper})"),
    "sampler": ("ancestral", "sampler {ours} (the paper: {paper})"),
    "steps": (1000, "{ours} sampling steps (released code: {paper})"),
    "images": (20000, "{ours} generated views (the paper: about {paper})"),
    "network": ("inception", "features of {ours} (the paper: {paper})"),
    "resize": ("legacy_tensorflow", "Inception's input resized by {ours} (released code: {paper})"),
    "filter_rule": ("neighbours", "filter rule {ours} (the paper: {paper}, Algorithm 1)"),
    "filter_k": (50, "filter k = {ours} (the paper: {paper})"),
}
METRICS = {
    "metric_k": (3, "metrics at k = {ours} (the paper: {paper})"),
    "metric_batches": (3, "{ours} reference batches (the paper: {paper})"),
    "metric_batch_size": (64, "reference batches of {ours} views (the paper: {paper})"),
}
PAPER_VIEWS = 880


def classification_facts(table: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The facts on which a table's numbers of fine-tuned classifiers depend."""
    starts = [row["init"] for row in config["tables"][table]["rows"] if row["init"] not in BASELINES]
    return {
        "backbone": ", ".join(dict.fromkeys(backbone_of(start, config) for start in starts)),
        "normalisation": "; ".join(
            dict.fromkeys(
                ", ".join(map("{:g}".format, normalisation_of(start, config) or [0.5, 0.25])) for start in starts
            )
        ),
        **{key: config[key] for key in ("holdout", "split_by", "folds")},
        "seeds": len(config["seeds"]),
        "spread": config["tables"]["spread"],
    }


def generation_facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """The facts on which the synthetic sets and what is measured of them depend."""
    diffusion, synthesis, recipe = config["diffusion"], config["synthesis"], config["manifold"]["recipe"]
    network = config["embedding"]["network"]
    made = {
        "held_out": diffusion["holdout_patients"],
        "checkpoint": "a ready model" if diffusion["model"] else diffusion["select"],
        **{key: synthesis["recipe"][key] for key in ("sampler", "steps")},
        "images": synthesis["images"],
    }
    return {
        **(made if synthesis["source"] == "generator" else {}),
        "network": network,
        **({"resize": config["embedding"]["inception"]["resize"]} if network == "inception" else {}),
        **{key: recipe[key] for key in ("filter_rule", "filter_k")},
    }


def metric_facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """`generation_facts`, and how the sets are measured."""
    return {**generation_facts(config), **{key: config["manifold"]["recipe"][key] for key in METRICS}}


def table_facts(table: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The facts on which one of the tables of fine-tuning depends: the generator's where a row learns from its views."""
    runs = config["pretraining"]["runs"]
    rows = config["tables"][table]["rows"]
    sets = {name for row in rows for name in runs.get(row["init"], {}).get("sets", ())}
    sets |= {config["finetuning"]["training_sets"][row["training_set"]]["set"] for row in rows if "training_set" in row}
    return classification_facts(table, config) | (generation_facts(config) if sets & set(SYNTHETIC_SETS) else {})


def made_with(facts: Facts, real_views: Sequence[int]) -> str:
    """One sentence: how the synthetic views were made and filtered.

    `real_views`: views in the manifold of each cohort, at least one.
    """
    low, high = min(real_views), max(real_views)
    size = f"{low}" if low == high else f"{low} to {high}"
    resize = f" (input resized by {facts['resize']})" if "resize" in facts else ""
    made = "Synthetic views: images from a folder; how they were made is not known here."
    if "sampler" in facts:
        made = (
            f"Synthetic views: {facts['sampler']} sampler, {facts['steps']} steps; checkpoint: {facts['checkpoint']};"
            f" {facts['held_out']:.0%} of the patients held out from the generator."
        )
    if facts["filter_rule"] == "none":
        return f"{made} Filter: none here, they were filtered before. Features of {facts['network']}{resize}."
    return (
        f"{made} Filter: rule {facts['filter_rule']},"
        f" k = {facts['filter_k']} of {size} real views, features of {facts['network']}{resize}."
    )


def not_comparable(facts: Facts, real_views: Sequence[int] = ()) -> str:
    """One sentence that names each fact that is not the paper's; empty where none differs."""
    differences = [
        text.format(ours=facts[key], paper=paper)
        for key, (paper, text) in {**CLASSIFICATION, **GENERATION, **METRICS}.items()
        if key in facts and facts[key] != paper
    ]
    if "filter_rule" in facts and set(real_views) != {PAPER_VIEWS}:
        differences.append(
            f"a manifold of {' to '.join(map(str, sorted({min(real_views), max(real_views)})))} views"
            f" (the paper: {PAPER_VIEWS})"
        )
    return f"Not comparable with the paper's numbers: {'; '.join(differences)}." if differences else ""
