"""Score the audit on phantoms, some of which carry a wrong label on purpose: how well each method finds those labels.

Beside the paper's votes: mean training loss, area under the margin, out-of-fold loss and confident learning, all from
the same runs.

    python -m workflow_scripts.audit.score_audit --losses audit/*_seed?.csv --oof audit/*_oof.csv --index views/labelled.csv \\
        --manifest data_manifest.csv --positive inhomogeneous --output-scores scores.csv --output-figure scores.png
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import say
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import add_settings, run, settings, stage_parser
from workflow_scripts.study.config.audit import VoteRule

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

DRAWS = 500  # of the bootstrap


def score_methods(
    losses: Mapping[str, pd.DataFrame], oof: Mapping[str, pd.DataFrame], index: pd.DataFrame, wrong: np.ndarray,
    rule: VoteRule, positive: str, draws: int,
) -> pd.DataFrame:  # fmt: skip
    """One row per method of `METHODS`: how its score ranks wrong labels, and what its own cut finds.

    `wrong` bool (V,) in the order of `index`; the other arguments as for `judge`, but for the rule's method. Columns:
    method; average_precision and auroc with `_low` and `_high`, 95 % percentile intervals of a bootstrap over patients;
    flagged, precision and recall of the suspicious labels (precision NaN where none is). Raises `UserError` unless some
    labels are wrong and some are right.
    """
    import numpy as np
    import pandas as pd
    from sklearn.metrics import average_precision_score, roc_auc_score

    from workflow_scripts.audit.suspicion import METHODS, judge, label_scores, score_of

    if wrong.all() or not wrong.any():
        raise UserError(
            f"{int(wrong.sum())} of {len(wrong)} labels are wrong; an audit can be scored on a mixture only"
        )
    scores = label_scores(losses, oof, index, rule, positive)
    weights = _patient_weights(index["patient_id"].to_numpy(), draws)
    rows = []
    for method in METHODS:
        score = score_of(scores, method)
        score = np.where(np.isnan(score), -np.inf, score)
        # Ranks, since scikit-learn refuses infinite scores.
        rank = pd.Series(score).rank().to_numpy()
        row: dict[str, object] = {"method": method}
        for name, metric in (("average_precision", average_precision_score), ("auroc", roc_auc_score)):
            resampled = [metric(wrong, rank, sample_weight=weight) for weight in weights if _mixed(wrong, weight)]
            low, high = np.percentile(resampled, [2.5, 97.5])
            row |= {name: metric(wrong, rank), f"{name}_low": low, f"{name}_high": high}
        judged = judge(losses, oof, index, rule.model_copy(update={"method": method}), positive)
        suspicious = judged["suspicious"].to_numpy() == 1
        hits, flagged = int((suspicious & wrong).sum()), int(suspicious.sum())
        row |= {"flagged": flagged, "precision": hits / flagged if flagged else np.nan, "recall": hits / wrong.sum()}
        rows.append(row)
    return pd.DataFrame(rows)


def _patient_weights(patients: np.ndarray, draws: int) -> np.ndarray:
    """How often each view is drawn when patients are drawn with replacement, float64 (draws, V)."""
    import numpy as np
    import pandas as pd

    codes, names = pd.factorize(patients)
    picks = np.random.default_rng(0).integers(len(names), size=(draws, len(names)))
    counts = np.stack([np.bincount(pick, minlength=len(names)) for pick in picks])
    return counts[:, codes].astype(np.float64)


def _mixed(wrong: np.ndarray, weight: np.ndarray) -> bool:
    return 0 < weight[wrong].sum() < weight.sum()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "losses+ oof+ index manifest patient_key?")
    add_outputs(parser, "scores figure")
    add_parameters(parser, "positive origin")
    add_settings(parser, VoteRule)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, score, draw."""
    from workflow_scripts.audit.figures import METHOD_TITLES, scores_figure
    from workflow_scripts.core.figures import save
    from workflow_scripts.core.files import read_csv, write_csv
    from workflow_scripts.study.manifest import true_classes

    losses, oof = ({str(path): read_csv(path) for path in paths} for paths in (arguments.losses, arguments.oof))
    index = read_csv(arguments.index)
    truth = index["image_id"].map(true_classes(arguments.manifest, index["image_id"], arguments.patient_key))
    wrong = (truth != index["label"]).to_numpy()
    scores = score_methods(losses, oof, index, wrong, settings(arguments), arguments.positive, DRAWS)
    for row in scores.itertuples():
        say(f"{METHOD_TITLES[str(row.method)]}: average precision {row.average_precision:.2f}, AUROC {row.auroc:.2f}")
    save(scores_figure(scores, int(wrong.sum()), len(wrong), arguments.origin), arguments.output_figure)
    write_csv(scores.assign(origin=arguments.origin), arguments.output_scores)


if __name__ == "__main__":
    run(main, parser())
