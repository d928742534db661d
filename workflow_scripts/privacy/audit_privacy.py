"""Copy audit of the synthetic views: which are closer to a training view than unseen patients' views come?

Writes per synthetic view `index, nearest_view, feature_distance, correlation, detector, score, copy, authentic`: the
training view behind the strongest evidence, the distance to the nearest one in the embedding's features, the best
normalised cross-correlation over flips and shifts, the detector whose evidence is the strongest (pixels, or one of the
networks that embed_copies trained), its score, whether it lies above the threshold, and authenticity. The summary (JSON,
and a page) holds counts, the control on held-out patients, what each detector finds of planted copies, the membership
AUCs from outside and from the generator's weights, the risks of singling out, linkability and inference, and in words
what may and may not be claimed. Where no patient was held out, no closeness can be called unusual: `copy` and the control
are left empty, and page and summary say that the audit was not possible.

    python -m workflow_scripts.privacy.audit_privacy --real embedding/labelled.npy --real-views views/labelled.npy \\
        --real-index views/labelled.csv --synthetic embedding/synthetic.npy --synthetic-views views/synthetic.npy \\
        --copy-real embedding/copy_labelled.npy --copy-synthetic embedding/copy_synthetic.npy \\
        --copy-planted embedding/copy_planted.npy --denoising synthesis/denoising.csv --filter synthesis/filter.csv \\
        --holdout diffusion/holdout.csv --output-privacy synthesis/privacy.csv --output-summary synthesis/privacy.json \\
        --output-page synthesis/privacy.html
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv, read_npy, write_csv, write_json, write_text
from workflow_scripts.core.log import say
from workflow_scripts.core.store import ViewStore, check_rows, open_pixels
from workflow_scripts.core.tables import Table, html_page, markdown
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import add_settings, run, settings, stage_parser
from workflow_scripts.study.config.manifold import PrivacyRecipe
from workflow_scripts.study.patients import real_masks

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

NOT_POSSIBLE = "not possible: no patient was held out"


def audit_layout(summary: Mapping[str, Any]) -> Table:
    """Table of what each detector flags of planted copies, held-out and generated views, from the audit's `summary`."""
    if not summary["possible"]:
        return Table(
            label="privacy",
            title=f"Copy audit: {NOT_POSSIBLE}",
            header=("synthetic views", "training views", "training patients"),
            rows=((str(summary["views"]), str(summary["training_views"]), str(summary["training_patients"])),),
            text_columns=0,
            notes=(summary["may_say"], summary["may_not_say"], summary["caveats"]),
            rules=(),
            origin=summary["origin"],
        )
    names = list(summary["control"]["by"])
    rows = [(f"planted copies: {row['kind']}", row) for row in summary["planted"]]
    rows += [("views of held-out patients (no copies)", summary["control"])]
    rows += [(f"generated views, {name}", found) for name, found in summary["flagged"].items()]
    notes = [
        f"Flagged: the score of a detector lies above the audit's threshold. It aims at {summary['false_alarms']:.1%} false"
        f" alarms of all detectors together; {summary['control']['share']:.1%} of {summary['held_out_views']} held-out"
        " patients' views trip a threshold that other patients set. Planted copies are altered training views.",
        "Pixels: two pictures lie on each other, also mirrored or shifted. Copy encoder: a network that learnt to know an altered"
        " picture again. Patient encoder: a network that learnt from pairs of views who is shown.",
        summary["may_say"],
        *(
            f"Generated views, {name}: {summary['authentic'][name]:.0%} authentic"
            f" (held-out real views {summary['authentic']['held_out']:.0%})."
            for name in summary["flagged"]
        ),
        summary["may_not_say"],
        summary["caveats"],
    ]
    return Table(
        label="privacy",
        title="Copy audit: what its detectors flag",
        header=("views", "count", "flagged", *(f"by {name}" for name in names)),
        rows=tuple(
            (kind, str(row["views"]), f"{row['share']:.0%}", *(f"{row['by'][name]:.0%}" for name in names))
            for kind, row in rows
        ),
        text_columns=1,
        notes=tuple(notes),
        rules=(),
        origin=summary["origin"],
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "real real_views real_index synthetic synthetic_views copy_real copy_synthetic copy_planted")
    add_inputs(parser, "denoising? filter holdout folds?")
    add_outputs(parser, "privacy summary page")
    add_parameters(parser, "exclude_fold origin")
    add_settings(parser, PrivacyRecipe)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Audit the synthetic views."""
    import numpy as np
    import pandas as pd

    from workflow_scripts.privacy import copies as privacy
    from workflow_scripts.privacy import membership, risks
    from workflow_scripts.privacy.planted import planted_copies, planted_rows, power
    from workflow_scripts.synthesis.checks import read_features
    from workflow_scripts.synthesis.neighbours import nearest

    recipe: PrivacyRecipe = settings(arguments)
    shift, seed = recipe.shift, recipe.seed
    store, views = ViewStore.open(arguments.real_views, arguments.real_index), open_pixels(arguments.synthetic_views)
    real_views, index, patients = store.pixels, store.index, store.patients
    real, synthetic = read_features(arguments.real, arguments.synthetic)
    answers = read_csv(arguments.filter, "filter")
    check_rows({str(arguments.real_views): len(store), str(arguments.real): len(real)})
    check_rows({
        str(arguments.synthetic): len(synthetic), str(arguments.synthetic_views): len(views),
        str(arguments.filter): len(answers),
    })  # fmt: skip
    compared = privacy.Views(real_views, _encoded(arguments.copy_real, len(store)), patients)
    generated = privacy.Views(views, _encoded(arguments.copy_synthetic, len(views)))
    training, held_out = real_masks(index, arguments.holdout, arguments.folds, arguments.exclude_fold)
    if not training.any():
        raise UserError(f"{arguments.holdout} and the excluded fold leave no training views to compare with")
    known = compared.select(training)
    detectors = privacy.Detectors(known, shift)
    found = detectors.closeness(generated)
    scores = detectors.scale.score(found.evidence)
    strongest, each = scores.argmax(axis=1), np.arange(len(views))
    authentic, distance = privacy.authentic(np.asarray(synthetic), real[training])
    table = pd.DataFrame({
        "index": each,
        "nearest_view": index["view_id"].to_numpy()[training][found.rows[each, strongest]],
        "feature_distance": distance,
        "correlation": found.correlation,
        "detector": np.array(detectors.names)[strongest],
        "score": scores.max(axis=1),
        "copy": pd.array([pd.NA] * len(views), dtype="Int64"),
        "authentic": authentic.astype(int),
    })  # fmt: skip
    counts = {
        "origin": arguments.origin,
        "training_views": int(training.sum()),
        "training_patients": len(np.unique(patients[training])),
    }  # fmt: skip
    if not held_out.any():
        summary = {"possible": False, "views": len(views), **counts} | privacy.without_held_out(arguments.holdout)
        _write(table, summary, arguments)
        return
    if arguments.denoising is None:
        raise UserError("with held-out patients the audit needs --denoising, which measure_denoising makes")

    calibration = detectors.calibrated(compared.select(held_out), recipe.false_alarms)
    if calibration.same.any():
        views_named = ", ".join(index["view_id"].to_numpy()[held_out][calibration.same])
        say(
            "held-out views that are the same picture as a training view, their patients are left out of the calibration:"
            f" {views_named}"
        )
    held_out[np.flatnonzero(held_out)[~calibration.usable]] = False
    planted = planted_copies(known.pixels[planted_rows(len(known.pixels), seed)], shift, seed)
    planted_features = _encoded(arguments.copy_planted, len(planted))
    flags = scores > calibration.threshold
    copies = np.any(flags, axis=1)
    table["copy"] = copies.astype(int)

    kept = answers["inside"].to_numpy() == 1
    summary = privacy.summarise(detectors, calibration, flags, kept, seed)
    summary |= {
        "possible": True,
        **counts,
        "same_pictures": int(calibration.same.sum()),
        "shift": shift,
        "planted": power(planted, planted_features, detectors, calibration.threshold),
        "authentic": {
            "unfiltered": float(authentic.mean()), "filtered": float(authentic[kept].mean()) if kept.any() else 0.0,
            "held_out": float(privacy.authentic(real[held_out], real[training])[0].mean()),
        },
        "membership_auc": {},
    }  # fmt: skip
    audited = training | held_out
    errors = _errors(arguments.denoising, index["view_id"].to_numpy(), audited)
    summary["generator"] = {
        name: membership.attack_on_weights(errors[name].to_numpy()[audited], patients[audited], held_out[audited], seed)
        for name in membership.WEIGHT_ATTACKS
    }
    for name, members in (("unfiltered", np.ones(len(kept), dtype=bool)), ("filtered", kept)):
        reach, rows = (found[:, 0] for found in nearest(np.asarray(real), synthetic[members], 1))
        auc, low, high = membership.membership_auc(
            reach[training], patients[training], reach[held_out], patients[held_out], seed
        )
        of_training, of_held_out = (
            membership.patient_means(reach[members], patients[members]) for members in (training, held_out)
        )
        caught = membership.caught(of_training, of_held_out, seed)
        summary["membership_auc"][name] = {"value": auc, "low": low, "high": high, "caught": caught}
    # `reach` and `rows` are now those of the filtered set, which is what is released.
    of_learnt, of_unseen = patients[training], patients[held_out]

    def recognised(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, None]:
        found = risks.recognised((numbers[training], of_learnt), (numbers[held_out], of_unseen))
        return *found, None

    summary["risks"] = risks.measured({
        "singling_out": (copies[kept], calibration.alarms, summary["held_out_patients"]),
        "linkability": (risks.linked(rows[training], of_learnt), risks.linked(rows[held_out], of_unseen), None),
        "inference": recognised(reach),
        **{f"inference_{name}": recognised(errors[name].to_numpy()) for name in membership.WEIGHT_ATTACKS},
    })  # fmt: skip
    _write(table, summary | privacy.statements(summary), arguments)


def _write(table: pd.DataFrame, summary: dict[str, Any], arguments: argparse.Namespace) -> None:
    from workflow_scripts.privacy.risks import attacks_layout, risks_layout

    pages = [audit_layout(summary)]
    if summary["possible"]:
        pages = [risks_layout(summary["risks"], arguments.origin), attacks_layout(summary), *pages]
    say("\n".join([*map(markdown, pages), summary["may_say"], summary["caveats"]]))
    write_csv(table, arguments.output_privacy)
    write_json(summary, arguments.output_summary)
    write_text(html_page(*pages), arguments.output_page)


def _encoded(path: Path, count: int) -> dict[str, np.ndarray]:
    """By network, the features (`count`, …, crops, D) that embed_copies wrote for views, or for kinds of planted copies."""
    import numpy as np

    from workflow_scripts.privacy.copies import ENCODERS

    features = read_npy(path)
    if len(features) != count or features.ndim < 4 or features.shape[-3] != len(ENCODERS):
        raise UserError(
            f"{path}: the networks' features of {count} views or kinds have the shape ({count}, …, {len(ENCODERS)}, crops,"
            f" width), these are {features.shape}; embed them again"
        )
    if features.dtype.kind != "f" or not np.isfinite(features).all():
        raise UserError(f"{path}: features are finite numbers, these are {features.dtype}; embed them again")
    return {name: features[..., number, :, :] for number, name in enumerate(ENCODERS)}


def _errors(source: Path, view_ids: np.ndarray, audited: np.ndarray) -> pd.DataFrame:
    """The generator's errors of views (N,) in the order of their ids; all `audited` (bool (N,)) ones have them."""
    errors = read_csv(source, "denoising").set_index("view_id")
    missing = sorted(set(view_ids[audited]) - set(errors.index))
    if missing:
        raise UserError(
            f"{source} lacks {len(missing)} of the labelled views, for example {missing[0]!r}; make it again"
        )
    return errors.reindex(view_ids)


if __name__ == "__main__":
    run(main, parser())
