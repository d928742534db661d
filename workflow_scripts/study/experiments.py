"""Experiments, which are what the table rows ask to be fine-tuned (each once, however many rows name it), and cohorts.

A cohort is the set of patients that one generator and one encoder may see. With `holdout: none` there is one, all
patients, and its path segment is empty. With `holdout: per_fold` there is one per seed and fold, `seed<s>_fold<f>/`,
without the patients of that fold. `canaries/` is the cohort of a generator that learns marked views (privacy.canaries);
nothing else learns from its images.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workflow_scripts.study.config.names import BASELINES, LABELLED_SET, SYNTHETIC_SETS, TABLES
from workflow_scripts.study.label_sets import LabelSet, label_set

# The path segment of the generator that is trained with canaries.
CANARIES = "canaries/"
# The variant whose folds assign views instead of patients.
VIEW_SPLIT = "view_split"
# The variant that trains no network: logistic regression on the frozen features of the start.
PROBE = "probe"
# Variants that train on a share of the patients are called by its percentage: patients25.
FEWER_PATIENTS = "patients"
# The variant that fuses the views of an organ side after fine-tuning.
FUSION = "mean_logits"
# The variant that trains both views of an organ side together, with the released code's weight.
COUPLED = {"paired": 1.0}
# The variant whose training views have no black corners.
REFLECTED = "reflected"
# What is left of the augmentation in a variant of the recipe.
AUGMENTATIONS_KEPT = {"unaugmented": set(), "markers_only": {"markers"}}


def cohorts(config: Mapping[str, Any]) -> list[str]:
    """The path segments of the study's cohorts."""
    if config["holdout"] == "none":
        return [""]
    return [f"seed{seed}_fold{fold}/" for seed in config["seeds"] for fold in range(config["folds"])]


def seed_cohorts(seed: int, config: Mapping[str, Any]) -> list[str]:
    """The cohorts of what the folds of one seed start from or learn: the one of all, or one per fold in their order."""
    return [cohort for cohort in cohorts(config) if not cohort or cohort.startswith(f"seed{seed}_")]


def left_out(cohort: str) -> tuple[int, int] | None:
    """Seed and fold that a cohort's path segment leaves out, None where it leaves no patient out."""
    match = re.fullmatch(r"seed(\d+)_fold(\d+)/", cohort)
    return (int(match[1]), int(match[2])) if match else None


@dataclass(frozen=True)
class Experiment:
    """One fine-tuning experiment: where it starts, which labels it learns, and a named change of recipe or folds."""

    init: str
    labels: str
    variant: str = ""
    training_set: str = ""
    """Name of the real and synthetic views that it learns (finetuning.training_sets); empty: the real ones."""

    @property
    def name(self) -> str:
        """Its folder below finetuning/."""
        training_set = f"on_{self.training_set}" if self.training_set else ""
        return "-".join(part for part in (self.init, self.labels, self.variant, training_set) if part)

    @property
    def is_baseline(self) -> bool:
        """Whether there is no network."""
        return self.init in BASELINES

    @property
    def is_probe(self) -> bool:
        """Whether the network that it starts from stays as it is."""
        return self.variant == PROBE

    @property
    def is_fused(self) -> bool:
        """Whether it fuses what another experiment says of single views."""
        return self.variant.endswith(FUSION)

    @property
    def single(self) -> Experiment:
        """The experiment whose single views it fuses."""
        return Experiment(self.init, self.labels, self.variant.removesuffix(FUSION).rstrip("_"))

    @property
    def is_trained(self) -> bool:
        """Whether networks are trained for it."""
        return not (self.is_baseline or self.is_probe or self.is_fused)


def experiment_of(row: Mapping[str, Any], config: Mapping[str, Any]) -> Experiment:
    """The experiment that a table row shows."""
    labels = row.get("labels", config["finetuning"]["labels"])
    return Experiment(row["init"], labels, row["variant"], row.get("training_set", ""))


def explained_experiments(config: Mapping[str, Any]) -> dict[str, Experiment]:
    """Figure 5's experiments by arm: the explained start with the full augmentation, with markers alone, without any."""
    start, labels = config["figures"]["explained"], config["finetuning"]["labels"]
    variants = {"full": "", "markers_only": "markers_only", "unaugmented": "unaugmented"}
    return {arm: Experiment(start, labels, variant) for arm, variant in variants.items()} if start else {}


def probe_titles(config: Mapping[str, Any]) -> dict[str, str]:
    """The printed name of each probed experiment: that of the first row that shows it."""
    titles: dict[str, str] = {}
    for table in TABLES:
        for row in config["tables"][table]["rows"]:
            experiment = experiment_of(row, config)
            if experiment.is_probe:
                titles.setdefault(experiment.name, row["name"])
    return titles


def learning_experiments(config: Mapping[str, Any]) -> dict[int, Experiment]:
    """The learning curve's experiments by the percentage of the training patients that they learn from, ascending."""
    start, labels = config["figures"]["learning_curve"], config["finetuning"]["labels"]
    percents = [*sorted(config["figures"]["learning_percents"]), 100] if start else []
    return {
        percent: Experiment(start, labels, "" if percent == 100 else f"{FEWER_PATIENTS}{percent}")
        for percent in percents
    }


def training_set(experiment: Experiment, config: Mapping[str, Any]) -> dict[str, Any]:
    """What the training set of an experiment is made of (finetuning.training_sets); empty where it has real views alone."""
    return config["finetuning"]["training_sets"][experiment.training_set] if experiment.training_set else {}


def synthetic_share(experiment: Experiment, config: Mapping[str, Any]) -> float:
    """Share of synthetic views in the training set of an experiment, 0 to 1, where patients have equally many views."""
    if not (made_of := training_set(experiment, config)):
        return 0.0
    return made_of["synthetic_percent"] / (made_of["real_percent"] + made_of["synthetic_percent"])


def labeller(experiment: Experiment, config: Mapping[str, Any]) -> Experiment | None:
    """The experiment whose networks label the synthetic views that an experiment learns, if that is how they are labelled."""
    is_relabelled = training_set(experiment, config).get("labels") == "relabelled"
    return Experiment(experiment.init, experiment.labels) if is_relabelled else None


def training_percent(experiment: Experiment, config: Mapping[str, Any]) -> int | None:
    """The percentage of the training patients whose real views an experiment learns from; None: all."""
    if made_of := training_set(experiment, config):
        return int(made_of["real_percent"])
    is_share = experiment.variant.startswith(FEWER_PATIENTS)
    return int(experiment.variant.removeprefix(FEWER_PATIENTS)) if is_share else None


def leak_experiments(config: Mapping[str, Any]) -> list[Experiment]:
    """The two experiments whose folds alone differ: of patients, and of views.

    None where folds are not of patients, or where start weights are made for folds of patients (holdout: per_fold).
    """
    start = config["tables"]["leak"]
    if not start or config["split_by"] != "patient" or config["holdout"] == "per_fold":
        return []
    return [Experiment(start, "complete"), Experiment(start, "complete", VIEW_SPLIT)]


def classifier_experiments(config: Mapping[str, Any]) -> list[Experiment]:
    """The experiment whose networks are packed into a deployable classifier, if there is one."""
    chosen = config["classifier"]
    return [Experiment(chosen["init"], chosen.get("labels", config["finetuning"]["labels"]))] if chosen["init"] else []


def experiments(config: Mapping[str, Any]) -> dict[str, Experiment]:
    """Every experiment of the study by name."""
    rows = [experiment_of(row, config) for table in TABLES for row in config["tables"][table]["rows"]]
    further = [
        *explained_experiments(config).values(), *learning_experiments(config).values(), *leak_experiments(config),
        *classifier_experiments(config),
    ]  # fmt: skip
    single = [row.single for row in rows if row.is_fused]
    labellers = [found for row in rows if (found := labeller(row, config))]
    return {experiment.name: experiment for experiment in [*rows, *further, *single, *labellers]}


def pretraining_runs(config: Mapping[str, Any]) -> list[str]:
    """The pretraining runs that a row, the audit, figure 5 or the embedding asks for; the config may hold more."""
    kind, _, name = config["embedding"]["network"].partition(":")
    encoder = name if kind == "encoder" else ""
    starts = {experiment.init for experiment in experiments(config).values()}
    asked = {*config["audit"]["initialisations"], encoder, *starts}
    return [run for run in config["pretraining"]["runs"] if run in asked]


def backbones(config: Mapping[str, Any]) -> list[str]:
    """The timm networks that the study trains, each once."""
    started = {experiment.init for experiment in experiments(config).values() if not experiment.is_baseline}
    starts = [*config["audit"]["initialisations"], *pretraining_runs(config), *sorted(started)]
    return list(dict.fromkeys(backbone_of(start, config) for start in starts))


def backbone_of(start: str, config: Mapping[str, Any]) -> str:
    """The timm network of an initialisation or pretraining run: its own, that of the run's start, or the study's."""
    if (run := config["pretraining"]["runs"].get(start)) is not None:
        return run.get("backbone") or backbone_of(run["init"], config)
    return config["initialisations"][start].get("backbone") or config["model"]["backbone"]


def normalisation_of(start: str, config: Mapping[str, Any]) -> list[float]:
    """Mean and deviation of the input of an initialisation or pretraining run: its own, or its start's; empty: the paper's."""
    if (run := config["pretraining"]["runs"].get(start)) is not None:
        return run.get("normalisation") or normalisation_of(run["init"], config)
    return config["initialisations"][start].get("normalisation") or []


def finetuning_recipe(experiment: Experiment, config: Mapping[str, Any]) -> dict[str, Any]:
    """The fine-tuning settings of an experiment."""
    recipe = dict(config["finetuning"]["recipe"])
    recipe["coupled"] = COUPLED.get(experiment.variant, recipe["coupled"])
    if (kept := AUGMENTATIONS_KEPT.get(experiment.variant)) is not None:
        # What is left is said in the magnitudes, which the released code's preset does not look at.
        magnitudes = {k: v if k in kept | {"outside"} else 0.0 for k, v in recipe["augmentation"].items()}
        recipe["augmentation"] = {**magnitudes, "preset": "paper"}
    if experiment.variant == REFLECTED:
        recipe["augmentation"] = {**recipe["augmentation"], "outside": "reflected"}
    return recipe


def repeats(config: Mapping[str, Any]) -> list[str]:
    """Path segments of the pretrainings of a run: its own folder for the first, `repeat<k>/` for each further one."""
    return ["", *(f"repeat{k}/" for k in range(1, config["pretraining"]["seeds"]))]


def repeat_of(seed: int, config: Mapping[str, Any]) -> str:
    """Path segment of the pretraining that a fine-tuning seed starts from."""
    segments = repeats(config)
    return segments[seed % len(segments)]


def repeated_recipe(run: str, repeat: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one of the pretrainings of a run: its recipe, the seed moved on by the number of the repeat."""
    recipe = pretraining_recipe(run, config)
    return {**recipe, "seed": recipe["seed"] + repeats(config).index(repeat)}


def pretraining_recipe(run: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The pretraining settings of a run: the common recipe with the run's own changes."""
    common, own = config["pretraining"]["recipe"], config["pretraining"]["runs"][run]["recipe"]
    merged = {**common, **own}
    merged["augmentation"] = {**common["augmentation"], **own.get("augmentation", {})}
    return merged


def distinct_augmentations(config: Mapping[str, Any]) -> list[str]:
    """The pretraining runs with distinct augmentations or pairs: the first of those whose settings are the same."""
    first: dict[str, str] = {}
    for run in pretraining_runs(config):
        recipe = pretraining_recipe(run, config)
        first.setdefault(str((recipe["augmentation"], recipe["pairs"])), run)
    return list(first.values())


def switches(experiment: Experiment, table: str, config: Mapping[str, Any]) -> dict[str, str]:
    """The descriptive columns of a row: which sets (table 3) and which losses (table 4), as the paper prints them.

    In table 5: the real and synthetic views learnt, and the labels of the synthetic ones.
    In table1_protocols: the labels learnt, who changed them, and the exceedances that make a run flag a view.
    """
    run = config["pretraining"]["runs"].get(experiment.init)
    if table == "table1_protocols":
        return _protocol(label_set(experiment.labels), config)
    if table == "table3":
        sets, organs = set(run["sets"]) if run else set(), config["data"]["organs"]
        target = config["data"]["target_organ"]
        columns = {
            f"real {organ}": _yes(organ in sets or (organ == target and LABELLED_SET in sets)) for organ in organs
        }
        synthetic = {"synthetic": "Xg", "filtered": "Xgf"}
        return {**columns, f"synthetic {target}": ", ".join(synthetic[s] for s in SYNTHETIC_SETS if s in sets) or "–"}
    if table == "table4":
        if run is None:
            return {"L_con": "no", "L_sup": "no", "lambda": "–"}
        recipe = pretraining_recipe(experiment.init, config)
        weight = recipe["organ_weight"]
        return {"L_con": _yes(recipe["loss_con"]), "L_sup": _yes(weight > 0), "lambda": f"{weight:.1f}"}
    if table == "table5":
        made_of = training_set(experiment, config)
        if not made_of:
            return {"real": "100 %", "synthetic": "–", "labels of synthetic views": "–"}
        kind = "Xgf" if made_of["set"] == "filtered" else "Xg"
        return {
            "real": f"{made_of['real_percent']} %",
            "synthetic": f"{made_of['synthetic_percent']} % {kind}",
            "labels of synthetic views": made_of["labels"],
        }
    return {}


def table_row(row: Mapping[str, Any], table: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a table as the table stages take it.

    Its printed name, the key of the paper's row that it repeats (if any), experiment, start, printed sample count, switches.
    """
    start = config["initialisations"].get(row["init"], {})
    experiment = experiment_of(row, config)
    return {
        "name": row["name"],
        **({"paper": row["paper"]} if "paper" in row else {}),
        "experiment": experiment.name,
        "init": row["init"],
        "samples": start.get("samples", "–"),
        "switches": switches(experiment, table, config),
    }


def _protocol(labels: LabelSet, config: Mapping[str, Any]) -> dict[str, str]:
    if labels.policy in ("complete", "reviewed"):
        by = "–" if labels.policy == "complete" else "clinician"
        return {"labels": labels.policy, "changed by": by, "exceedances": "–"}
    by = {"paper": "audit of all views", "nested": "audit without the test fold", "random": "chance"}[labels.protocol]
    exceedances = labels.exceedances or config["audit"]["vote"]["exceedances"]
    return {"labels": labels.policy, "changed by": by, "exceedances": str(exceedances)}


def _yes(value: bool) -> str:
    return "yes" if value else "no"
