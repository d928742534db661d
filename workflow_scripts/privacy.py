"""Copy audit of the generated views: which are closer to a training view than unseen patients' views come?

Writes per generated view `index, nearest_view, feature_distance, correlation, score, copy`: the training view behind
the strongest evidence, the distance to the nearest one in features, the best normalised cross-correlation over flips
and shifts, the score and whether it lies above the threshold. The summary (JSON) holds counts, the control on held-out
patients, the membership AUC, the power on planted copies, and in words what may and may not be claimed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from workflow_scripts.cli import add_settings, run, say, settings, stage_parser
from workflow_scripts.errors import UserError
from workflow_scripts.files import read_csv, read_npy, write_csv, write_json
from workflow_scripts.study.patients import add_reference, check_rows, real_masks

if TYPE_CHECKING:
    import numpy as np


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--real", type=Path, required=True, help="features of the labelled views")
    parser.add_argument("--real-views", type=Path, required=True, help="store of the labelled views")
    parser.add_argument("--real-index", type=Path, required=True, help="index of the labelled views")
    parser.add_argument("--synthetic", type=Path, required=True, help="features of the generated views")
    parser.add_argument("--synthetic-views", type=Path, required=True, help="store of the generated views")
    parser.add_argument("--filter", type=Path, required=True, help="the manifold filter's answers")
    add_reference(parser, holdout_required=True)
    parser.add_argument("--origin", default="", help="stamp in the summary, for example PHANTOM (default: none)")
    parser.add_argument("--output", type=Path, required=True, help="CSV, one row per generated view")
    parser.add_argument("--output-summary", type=Path, required=True, help="JSON")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    add_settings(parser, "privacy_recipe")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Audit the generated views."""
    import numpy as np
    import pandas as pd

    from workflow_scripts.manifold import privacy
    from workflow_scripts.manifold.neighbours import nearest

    recipe = settings(arguments)
    shift, seed = recipe["shift"], recipe["seed"]
    real, real_views, index = read_npy(arguments.real), read_npy(arguments.real_views), read_csv(arguments.real_index)
    synthetic, views = read_npy(arguments.synthetic), read_npy(arguments.synthetic_views)
    answers = read_csv(arguments.filter)
    check_rows({
        str(arguments.real): len(real), str(arguments.real_views): len(real_views),
        str(arguments.real_index): len(index),
    })  # fmt: skip
    check_rows({
        str(arguments.synthetic): len(synthetic), str(arguments.synthetic_views): len(views),
        str(arguments.filter): len(answers),
    })  # fmt: skip
    training, held_out = real_masks(index, arguments.holdout, arguments.folds, arguments.exclude_fold)
    patients = index["patient_id"].to_numpy()
    _require_patients(patients[held_out], f"{arguments.holdout} leaves")
    if not training.any():
        raise UserError(f"{arguments.holdout} and the excluded fold leave no training views to compare with")

    known = real_views[training], real[training]
    unseen = privacy.closeness(real_views[held_out], real[held_out], *known, shift)
    same = unseen.correlation[:, 0] >= privacy.SAME_PICTURE
    if same.any():
        views_named = ", ".join(index["view_id"].to_numpy()[held_out][same])
        say(
            "held-out views that are the same picture as a training view, their patients calibrate nothing:"
            f" {views_named}"
        )
    usable = privacy.really_unseen(unseen.correlation[:, 0], patients[held_out])
    held_out[np.flatnonzero(held_out)[~usable]] = False
    _require_patients(patients[held_out], "held-out pictures that are also training views leave")
    scale = privacy.scale_of(privacy.closeness_within(*known, patients[training], shift).evidence())
    held_scores = scale.score(unseen.evidence()[usable])[0]
    threshold = privacy.threshold_of(held_scores, recipe["false_alarms"])
    found = privacy.closeness(views, np.asarray(synthetic), *known, shift)
    score, strongest = scale.score(found.evidence())
    copies = score > threshold

    kept = answers["inside"].to_numpy() == 1
    summary = privacy.summarise(copies, kept, held_scores, patients[held_out], recipe["false_alarms"], seed)
    summary |= {
        "origin": arguments.origin,
        "training_views": int(training.sum()),
        "training_patients": len(np.unique(patients[training])),
        "same_pictures": int(same.sum()),
        "shift": shift,
        "threshold": threshold,
        "planted_pixels": privacy.pixel_power(known[0], scale, threshold, shift, seed),
        "membership_auc": {},
    }
    for name, members in (("unfiltered", np.ones(len(kept), dtype=bool)), ("filtered", kept)):
        reach = nearest(np.asarray(real), synthetic[members], 1)[0][:, 0]
        auc, low, high = privacy.membership_auc(
            reach[training], patients[training], reach[held_out], patients[held_out], seed
        )
        summary["membership_auc"][name] = {"value": auc, "low": low, "high": high}
    summary |= privacy.statements(summary)
    say(f"{summary['may_say']}\n{summary['caveats']}")

    nearest_rows = found.nearest_rows(strongest)
    table = pd.DataFrame({
        "index": np.arange(len(views)),
        "nearest_view": index["view_id"].to_numpy()[training][nearest_rows],
        "feature_distance": found.distance[:, 0],
        "correlation": found.correlation[:, 0].astype(float),
        "score": score,
        "copy": copies.astype(int),
    })  # fmt: skip
    write_csv(table, arguments.output)
    write_json(summary, arguments.output_summary)


def _require_patients(patients: np.ndarray, who: str) -> None:
    count = len(set(patients))
    if count < 2:
        raise UserError(
            f"{who} {count} held-out patients; the audit calibrates on patients the generator never saw and needs at"
            " least 2. Set diffusion.holdout_patients (0.15 by default) higher and train the generator again"
        )


if __name__ == "__main__":
    run(main, parser())
