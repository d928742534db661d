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
from workflow_scripts.privacy.canaries import exact_interval
from workflow_scripts.privacy.copies import cross_fitted_alarms, threshold_of
from workflow_scripts.privacy.membership import FALSE_ALARMS, patient_means

# Each of the two rates has an interval of this level, so that both hold together in at least 95 % of studies.
LEVEL = 0.975
QUESTIONS = {
    "singling_out": (
        "Singling out: does a generated view show one training patient's view?",
        "Compare each generated view with all training views, in pixels and by a network.",
    ),
    "linkability": (
        "Linkability: do two views of one patient lead to the same generated view?",
        "Look up the nearest generated view of each of a patient's two views.",
    ),
    "inference": (
        "Inference: does the set tell that a patient was in the training data?",
        "Call those patients members whose views lie closest to the generated ones.",
    ),
    "inference_with_weights": (
        "Inference by someone who has the generator's weights, which are not released",
        "Call those patients members whose views the generator denoises best.",
    ),
}


def risk(attack: np.ndarray, control: np.ndarray, control_patients: int | None = None) -> dict[str, Any]:
    """What an attack achieves beyond the control, (attack - control) / (1 - control), at least 0, with a 95 % interval.

    `attack`, bool (N,), and `control`, bool (M,): which targets the attack succeeds against. Targets are independent,
    except controls that are views of fewer `control_patients`: these count as so many. The interval combines exact
    intervals of both rates (Bonferroni); it is wide where patients are few.
    """
    low, high = exact_interval(int(attack.sum()), len(attack), LEVEL)
    units = len(control) if control_patients is None else control_patients
    control_low, control_high = exact_interval(float(control.mean()) * units, units, LEVEL)
    return {
        "attack": {"successes": int(attack.sum()), "targets": len(attack)},
        "control": {"successes": int(control.sum()), "targets": len(control)},
        "value": _excess(float(attack.mean()), float(control.mean())),
        "low": _excess(low, control_high),
        "high": _excess(high, control_low),
    }


def _excess(attack: float, control: float) -> float:
    return max(0.0, (attack - control) / (1 - control)) if control < 1 else 0.0


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
    those below a number that at most FALSE_ALARMS of the unseen patients undercut; an unseen patient is judged by the
    number that the other unseen ones set.
    """
    training, others = -patient_means(*training_views), -patient_means(*unseen_views)
    return (
        training > threshold_of(others, FALSE_ALARMS),
        cross_fitted_alarms(others, np.arange(len(others)), FALSE_ALARMS),
    )


def risks_layout(risks: Mapping[str, Any], origin: str) -> Table:
    """Table of the risks by question (keys of QUESTIONS; those that could not be measured are missing), and their limits."""
    shown = [QUESTIONS[name][0].partition(":")[0] for name, found in risks.items() if found["low"] > 0]
    missing = [QUESTIONS[name][0].partition(":")[0] for name in QUESTIONS if name not in risks]
    notes = [
        "These are the three questions by which the Article 29 Working Party of the European Union judges anonymisation"
        " (Opinion 05/2014).",
        "The control group are patients whom the generator never saw. What an attack achieves against them as well, it has"
        " not learnt from the set.",
        "Risk: how much more often the attack succeeds against training patients than against the control group, as a share"
        " of what was left to achieve: (attack - control) / (1 - control). 0 % means no more often, 100 % always. The interval"
        " holds the true risk in at least 95 of 100 such studies; few patients make it wide.",
        "The set was attacked after the filter and before flagged views were taken out. Flagged views are not released.",
        f"More than chance: {', '.join(shown)}. Do not release before you know why."
        if shown
        else "No attack achieved surely more than against the control group. The upper end of an interval is the risk that this"
        " study cannot exclude.",
        *([f"Not measured: {', '.join(missing)} (no two views of a patient in one of the groups)."] if missing else []),
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
        text_columns=2,
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


def measured(found: Mapping[str, tuple[Sequence[bool], Sequence[bool], int | None]]) -> dict[str, Any]:
    """The risk of each question with targets in both groups: (attack, control, control patients) by question."""
    return {
        name: risk(np.asarray(attack, bool), np.asarray(control, bool), patients)
        for name, (attack, control, patients) in found.items()
        if len(attack) and len(control)
    }
