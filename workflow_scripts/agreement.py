"""Compare a clinician's decisions with the original and with the flipped labels: Cohen's kappa (paper, Sec. 3).

On the suspicious views, on the controls and on all of them; views that she discarded or was unsure about are left out
and counted. The 95 % interval redraws the patients.

    python -m workflow_scripts.agreement --decisions decisions.csv --complete labels/complete.csv \\
        --flipped labels/flipped.csv --votes audit/votes.csv --index views/labelled.csv \\
        --classes homogeneous inhomogeneous --output audit/agreement.csv
"""

from __future__ import annotations

import argparse
from pathlib import Path

from workflow_scripts.cli import run, say, stage_parser
from workflow_scripts.errors import UserError

COLUMNS = ("set", "against", "views", "unsure", "discarded", "kappa", "low", "high", "agreement")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--decisions", type=Path, required=True, help="CSV of the clinician's decisions")
    parser.add_argument("--complete", type=Path, required=True, help="CSV of the original labels")
    parser.add_argument("--flipped", type=Path, required=True, help="CSV of the flipped labels")
    parser.add_argument("--votes", type=Path, required=True, help="CSV of the audit's votes")
    parser.add_argument("--index", type=Path, required=True, help="CSV index of the labelled views")
    parser.add_argument("--classes", nargs=2, required=True, metavar=("NEGATIVE", "POSITIVE"), help="label names")
    parser.add_argument("--output", type=Path, required=True, help=f"CSV {','.join(COLUMNS)}")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, compare, write."""
    from workflow_scripts.evaluation.agreement import reviewer_agreement
    from workflow_scripts.evaluation.labels import require_reviewed_labels, rows_of_clinician
    from workflow_scripts.files import read_rows, write_rows

    if not arguments.decisions.is_file():
        raise UserError(f"{arguments.decisions} does not exist")
    source = str(arguments.decisions)
    rows, complete = rows_of_clinician(read_rows(arguments.decisions), source), read_rows(arguments.complete)
    require_reviewed_labels(rows, complete, source)
    tables = {name: read_rows(getattr(arguments, name)) for name in ("flipped", "votes", "index")}
    for name, table in tables.items():
        missing = {row["view_id"] for row in complete} - {row["view_id"] for row in table}
        if missing:
            raise UserError(
                f"{getattr(arguments, name)} lacks {len(missing)} views of {arguments.complete}, for example "
                f"{min(missing)}; one of the two is out of date"
            )
    results = reviewer_agreement(
        {row["view_id"]: row["decision"] for row in rows},
        complete,
        {row["view_id"]: row["label"] for row in tables["flipped"]},
        {row["view_id"]: row["suspicious"] == "1" for row in tables["votes"]},
        {row["view_id"]: row["patient_id"] for row in tables["index"]},
        arguments.classes,
        source,
    )
    for result in results:
        say(result.sentence)
    if any("blind" in row for row in rows):
        seen = sum(row.get("blind") != "1" for row in rows)
        say(f"{seen} of the {len(rows)} decisions were made after the view's label had been shown")
    write_rows([result.row for result in results], COLUMNS, arguments.output)


if __name__ == "__main__":
    run(main, parser())
