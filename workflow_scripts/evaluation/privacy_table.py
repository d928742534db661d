"""The privacy audit on one page: what of planted copies it finds, kind by kind, and what was found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workflow_scripts.evaluation.rendering import Table


def audit_layout(summary: Mapping[str, Any]) -> Table:
    """Table of the kinds of planted copies in `summary`, the audit's; its findings and their limits as notes."""
    rows = [
        (
            row["kind"],
            f"{row['found']:.0%}",
            f"{row['by_pixels']:.0%}",
            f"{row['by_encoder']:.0%}",
            f"{row['missed']} of {row['copies']}",
        )
        for row in summary["planted"]
    ]
    notes = [
        f"Planted copies of training views, flagged at the threshold of the audit (aim: {summary['false_alarms']:.1%} false"
        f" alarms; {summary['control']['share']:.1%} of {summary['held_out_views']} held-out patients' views trip a"
        " threshold that other patients set).",
        summary["may_say"],
        *(
            f"{name}: of {summary['flagged'][name]['views']} generated views {summary['flagged'][name]['copies']} flagged;"
            f" {summary['authentic'][name]:.0%} authentic (held-out real views {summary['authentic']['held_out']:.0%});"
            f" membership AUC {auc['value']:.2f} (95 % interval {auc['low']:.2f} to {auc['high']:.2f})."
            for name, auc in summary["membership_auc"].items()
        ),
        weights_note(summary["generator"]),
        summary["may_not_say"],
        summary["caveats"],
    ]
    return Table(
        label="privacy",
        title="Copy audit: planted copies that it finds",
        header=("kind of copy", "found", "by pixels", "by encoder", "missed"),
        rows=tuple(rows),
        text_columns=1,
        notes=tuple(notes),
        rules=(),
        origin=summary["origin"],
    )


def weights_note(attack: Mapping[str, Any]) -> str:
    """One sentence or two about what the generator's weights tell of its training patients."""
    auc, caught = attack["auc"], attack["caught"]
    found = (
        f" At {attack['false_alarms']:.0%} false alarms {caught['value']:.0%} of them are told"
        f" ({caught['low']:.0%} to {caught['high']:.0%}; chance is {attack['false_alarms']:.0%})."
        if caught
        else ""
    )
    return (
        f"With the generator's weights: a training patient is denoised better than a held-out one with probability"
        f" {auc['value']:.2f} (95 % interval {auc['low']:.2f} to {auc['high']:.2f}; 0.5 is no difference;"
        f" {attack['training_patients']} training and {attack['held_out_patients']} held-out patients).{found}"
    )
