"""Judge which labels are suspicious, from the audit's tables alone, and whether the rule treats the classes alike.

The method `votes` is the paper's (Sec. 3): a run flags a view whose loss exceeds the threshold in at least so many
epochs, and a view that (nearly) all runs flag is suspicious. The other methods compare a mean with the same threshold.

    python -m workflow_scripts.audit.count_votes --losses audit/*_seed?.csv --oof audit/*_oof.csv --index views/labelled.csv \\
        --positive inhomogeneous --exceedances 4 --output-votes votes.csv --output-bias bias.csv
"""

from __future__ import annotations

import argparse

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import say
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import add_settings, run, settings, stage_parser
from workflow_scripts.study.config.audit import VoteRule


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "losses+ oof+ index")
    add_outputs(parser, "votes bias")
    add_parameters(parser, "positive")
    add_settings(parser, VoteRule)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read the tables, judge, write."""
    from workflow_scripts.audit.suspicion import judge
    from workflow_scripts.audit.votes import class_bias, discordant_organ_sides
    from workflow_scripts.core.files import read_csv, write_csv
    from workflow_scripts.study.patients import numbered_organ_sides

    if len(set(arguments.losses)) < len(arguments.losses):
        raise UserError("--losses names a file twice; its runs would vote twice")
    losses, oof = ({str(path): read_csv(path, name) for path in getattr(arguments, name)} for name in ("losses", "oof"))
    index = read_csv(arguments.index, "index")
    votes = judge(losses, oof, index, settings(arguments), arguments.positive)
    bias = class_bias(losses, votes)
    for row in bias.itertuples():
        say(
            f"{row.label}: {row.suspicious} of {row.views} labels suspicious; {row.recorded_epochs:.1f} epochs recorded "
            f"per run, {row.flag_rate:.1%} of the evaluations flag"
        )
    discordant = discordant_organ_sides(votes["suspicious"].to_numpy() == 1, numbered_organ_sides(index).to_numpy())
    if discordant:
        say(
            f"{discordant} organ sides have both suspicious and unsuspicious views, though these inherited one label; "
            "audit.vote.unit: organ_side judges them together"
        )
    write_csv(bias, arguments.output_bias)
    write_csv(votes, arguments.output_votes)


if __name__ == "__main__":
    run(main, parser())
