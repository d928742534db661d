"""The audit's findings as a data-protection officer asks for them: singling out, linkability, inference.

The three questions are those of the Article 29 Working Party (Opinion 05/2014 on anonymisation techniques). Each is
answered by an attack on the training patients and by the same attack on a control group that the generator never saw, as
`anonymeter` (Giomi et al. 2023) does for tables: what succeeds as often against strangers reveals nobody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from workflow_scripts.core.tables import Table, counted
from workflow_scripts.privacy.copies import cross_fitted_thresholds, threshold_of
from workflow_scripts.privacy.membership import DRAWS, FALSE_ALARMS, WEIGHT_ATTACKS, patient_means

# Stands for 0 where a distribution has a parameter or a share a divisor of 0.
NEVER = 1e-9
WITH_WEIGHTS = "Inference by someone who has the generator's weights, which are not released"
QUESTIONS = {
    "singling_out": (
        "Singling out: does a generated view show one training patient's view?",
        "Compare each generated view with all training views, in pixels and by two networks, and with crops of them.",
    ),
    "linkability": (
        "Linkability: do two views of one patient lead to the same generated view?",
        "Look up the nearest generated view of each of a patient's two views.",
    ),
    "inference": (
        "Inference: does the set tell that a patient was in the training data?",
        "Call those patients members whose views lie closest to the generated ones.",
    ),
    "inference_error": (WITH_WEIGHTS, "Call those patients members whose views the generator denoises best."),
    "inference_secmi": (
        WITH_WEIGHTS,
        "Call those patients members whose views a step of the generator leads least astray.",
    ),
}


def risk(attack: np.ndarray, control: np.ndarray, control_patients: int | None = None) -> dict[str, Any]:
    """What an attack achieves beyond the control, (attack - control) / (1 - control), at least 0, with a 95 % interval.

    `attack`, bool (N,), and `control`, bool (M,): which targets the attack succeeds against. Targets are independent,
    except controls that are views of fewer `control_patients`: these count as so many. Each end of the interval is the
    quantile of risks of rates drawn from the Beta distributions behind that end of the exact (Clopper and Pearson's)
    interval of a rate; it is wide where patients are few.
    """
    units = len(control) if control_patients is None else control_patients
    generator = np.random.default_rng(0)
    found = (float(attack.mean()), len(attack)), (float(control.mean()), units)

    def drawn(rate: float, count: int, above: bool) -> np.ndarray:
        successes, failures = rate * count + above, (1 - rate) * count + (not above)
        return generator.beta(max(successes, NEVER), max(failures, NEVER), DRAWS)

    low, high = (
        np.quantile(_excess(drawn(*found[0], above), drawn(*found[1], not above)), level)
        for above, level in ((False, 0.025), (True, 0.975))
    )
    return {
        "attack": {"successes": int(attack.sum()), "targets": len(attack)},
        "control": {"successes": int(control.sum()), "targets": len(control)},
        "value": float(_excess(attack.mean(), control.mean())),
        "low": float(low),
        "high": float(high),
    }


def _excess(attack: np.ndarray, control: np.ndarray) -> np.ndarray:
    left = np.maximum(1 - control, NEVER)
    return np.maximum(0, (attack - control) / left)


def linked(nearest_generated: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """bool (P,), by patient with at least two views: have the first two the same nearest generated view, rows (N,)?"""
    rows = (np.flatnonzero(patients == patient) for patient in np.unique(patients))
    return np.array(
        [nearest_generated[own[0]] == nearest_generated[own[1]] for own in rows if len(own) > 1], dtype=bool
    )


def recognised(
    training_views: tuple[np.ndarray, np.ndarray], unseen_views: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Who is taken for a member: bool (P,) of the training patients, bool (H,) of the unseen ones (at least two).

    Each side has numbers (N,), smaller for members, and patients (N,) of its views; a patient's number is their mean. Members are
    those below a number that at most a tenth of the unseen patients undercut; an unseen patient is judged by the
    number that the other unseen ones set.
    """
    training, others = -patient_means(*training_views), -patient_means(*unseen_views)
    return (
        training > threshold_of(others, FALSE_ALARMS[0]),
        others > cross_fitted_thresholds(others, np.arange(len(others)), FALSE_ALARMS[0]),
    )


def risks_layout(risks: Mapping[str, Any], origin: str) -> Table:
    """Table of the risks by question (keys of QUESTIONS; those that could not be measured are missing), and their limits."""
    title = {name: question.partition(":")[0] for name, (question, _) in QUESTIONS.items()}
    shown = dict.fromkeys(title[name] for name, found in risks.items() if found["low"] > 0)
    missing = [title[name] for name in QUESTIONS if name not in risks]
    notes = [
        "These are the three questions by which the Article 29 Working Party of the European Union judges anonymisation"
        " (Opinion 05/2014).",
        "The control group are patients whom the generator never saw. What an attack achieves against them as well, it has"
        " not learnt from the set.",
        "Risk: how much more often the attack succeeds against training patients than against the control group, as a share"
        " of what was left to achieve: (attack - control) / (1 - control). 0 % means no more often, 100 % always. The interval"
        " holds the true risk in at least 95 of 100 such studies; few patients make it wide.",
        "The set was attacked after the filter and before flagged views were taken out. Flagged views are not released.",
        f"More than chance: {', '.join(shown)}. Do not share what the attack needs before you know why; chance alone gets"
        " there in about one of 40 attacks."
        if shown
        else "No attack achieved surely more than against the control group. The upper end of an interval is the risk that this"
        " study cannot exclude.",
        *(
            [f"Not measured: {', '.join(missing)} (it takes patients with two views in both groups)."]
            if missing
            else []
        ),
        "May be claimed: that these attacks achieved this on this set. Not: that the set is anonymous. The opinion asks about"
        " all means reasonably likely to be used, and stronger attacks, or an attacker who knows more, may achieve more. The set"
        " has no labels, so that no diagnosis can be read from it; whether one can be seen in a view is not tested.",
    ]
    return Table(
        label="risks",
        title="What the generated views reveal about patients",
        header=("question", "attack", "against training patients", "against the control group", "risk (95 % interval)"),
        rows=tuple(
            (*QUESTIONS[name], *(_rate(name, group, found) for group in ("attack", "control")), _interval(found))
            for name, found in risks.items()
        ),
        text_columns=4,
        notes=tuple(notes),
        origin=origin,
        has_sentences=True,
    )


def _rate(name: str, group: str, found: Mapping[str, Any]) -> str:
    successes, targets = found[group]["successes"], found[group]["targets"]
    noun = "patient" if name != "singling_out" else "generated view" if group == "attack" else "view"
    return f"{successes} of {counted(targets, noun)} ({successes / targets:.0%})"


def _interval(found: Mapping[str, Any]) -> str:
    return f"{found['value']:.0%} ({found['low']:.0%} to {found['high']:.0%})"


def measured(found: Mapping[str, tuple[np.ndarray, np.ndarray, int | None]]) -> dict[str, Any]:
    """The risk of each question with targets in both groups: (attack, control, control patients) by question, bool (N,)."""
    return {
        name: risk(attack, control, patients)
        for name, (attack, control, patients) in found.items()
        if len(attack) and len(control)
    }


def attacks_layout(summary: Mapping[str, Any]) -> Table:
    """Table of the attacks that ask who was trained on, with what the attacker has, from the audit's `summary`."""
    outside = {
        f"nearest generated view, {name} set": ("generated views", found, found["caught"])
        for name, found in summary["membership_auc"].items()
    }
    inside = {
        WEIGHT_ATTACKS[name]: ("weights", found["auc"], found["caught"]) for name, found in summary["generator"].items()
    }
    unseen = summary["held_out_patients"]

    def share(caught: Sequence[Mapping[str, float]], rate: float) -> str:
        return next((_interval(found) for found in caught if found["false_alarms"] == rate), "–")

    return Table(
        label="membership",
        title="Attacks that ask who was trained on",
        header=(
            "attack by",
            "attacker has",
            "AUROC (95 % interval)",
            *(f"recognised at {rate:.0%} false alarms" for rate in FALSE_ALARMS),
        ),
        rows=tuple(
            (
                name,
                has,
                f"{auc['value']:.2f} ({auc['low']:.2f} to {auc['high']:.2f})",
                *(share(caught, r) for r in FALSE_ALARMS),
            )
            for name, (has, auc, caught) in (outside | inside).items()
        ),
        text_columns=2,
        notes=(
            "AUROC: the chance that the attack's number speaks for a training patient rather than for a patient of the control"
            " group; 0.5 is no difference.",
            f"Recognised: the share of the {summary['training_patients']} training patients, where that share of the {unseen}"
            " patients of the control group is falsely recognised. A dash: so small a share of so few patients is nobody.",
        ),
        origin=summary["origin"],
    )
