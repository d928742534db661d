"""Score the audit on phantoms, some of which carry a wrong label on purpose: how well does each method find them?

Beside the paper's votes: mean training loss, area under the margin, out-of-fold loss and confident learning, all from
the same runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from workflow_scripts.cli import add_patient_key, add_settings, run, say, settings, stage_parser
from workflow_scripts.study.config.audit import VoteRule


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--losses", type=Path, nargs="+", required=True, help="CSVs view_id,fold,epoch,loss")
    parser.add_argument(
        "--oof", type=Path, nargs="+", required=True, help="CSVs view_id,fold,probability of the same runs"
    )
    parser.add_argument("--index", type=Path, required=True, help="index of the labelled views")
    parser.add_argument("--manifest", type=Path, required=True, help="manifest with the column truth")
    add_patient_key(parser)
    parser.add_argument("--positive", required=True, help="name of the positive class")
    add_settings(parser, VoteRule)
    parser.add_argument("--origin", default="", help="what the views are if not patients': PHANTOM")
    parser.add_argument("--output", type=Path, required=True, help="CSV, one row per method")
    parser.add_argument("--output-figure", type=Path, required=True, help="PNG")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, score, draw."""
    from workflow_scripts.evaluation.audit_figures import METHOD_TITLES, scores_figure
    from workflow_scripts.evaluation.audit_scores import score_methods
    from workflow_scripts.evaluation.figures import save
    from workflow_scripts.files import read_csv, write_csv
    from workflow_scripts.study.manifest import true_classes

    losses, oof = ({str(path): read_csv(path) for path in paths} for paths in (arguments.losses, arguments.oof))
    index = read_csv(arguments.index)
    truth = index["image_id"].map(true_classes(arguments.manifest, index["image_id"], arguments.patient_key))
    wrong = (truth != index["label"]).to_numpy()
    scores = score_methods(losses, oof, index, wrong, settings(arguments), arguments.positive)
    for row in scores.itertuples():
        say(f"{METHOD_TITLES[str(row.method)]}: average precision {row.average_precision:.2f}, AUROC {row.auroc:.2f}")
    save(scores_figure(scores, int(wrong.sum()), len(wrong), arguments.origin), arguments.output_figure)
    write_csv(scores.assign(origin=arguments.origin), arguments.output)


if __name__ == "__main__":
    run(main, parser())
