"""Make the page to read first: what was studied, the main table as a forest plot, four pictures, privacy, audit, warnings.

One HTML file without script that loads nothing; it links to the other pages of the results.

    python -m workflow_scripts.tables.make_front_page --index views/labelled.csv --votes audit/votes.csv \\
        --pairs checks/near_duplicates.csv --shortcuts tables/shortcuts.csv --summaries synthesis/privacy.json \\
        --claims tables/claims.csv --table table2 --numbers tables/table2.csv \\
        --rows '[{"name": "UD", "experiment": "ud-flipped"}]' --experiments ud-flipped \\
        --predictions finetuning/ud-flipped/seed0.csv --classes homogeneous inhomogeneous --figures figures/figure1.png \\
        --names "Frames and crop boxes" --pages report.html --output-page index.html
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from markupsafe import Markup

from workflow_scripts.audit.shortcut_table import read_findings, told_from
from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv, read_json, write_text
from workflow_scripts.core.pages import render_page
from workflow_scripts.core.tables import Table, counted, number, p_value
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser
from workflow_scripts.tables import tables
from workflow_scripts.tables.claims import RESULTS, UNTESTED
from workflow_scripts.tables.forest import Mark, axis_label, extent, marks, share_labels
from workflow_scripts.tables.reading import critical_sentence
from workflow_scripts.tables.rows import read_predictions, read_table_rows

if TYPE_CHECKING:
    import pandas as pd

_PAGE = Path(__file__).with_name("front_page")
WIDEST = 1000  # pixels of a picture on the page; it links to the whole one
STEPS = (1, 2, 5, 10, 20, 50)  # points between two numbers of the axis
# The audit of planted copies finds fewer than this share of a kind: it says little about such copies.
BLIND = 0.5
PAGES = {
    "report": "Report with every table and figure",
    "review": "Label review",
    "reading": "Reading of generated views",
    "claims": "The paper's claims",
    "privacy": "Privacy audit",
    "levels": "By organ side and patient",
    "generation": "Generated views",
    "leak": "Leak of folds of views",
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "index votes pairs shortcuts summaries+ claims numbers? predictions* agreement? figures* pages*")
    add_outputs(parser, "page")
    add_parameters(
        parser, "table? rows? experiments* names* titles classes split_by holdout_protocol pretraining_seeds origin"
    )
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read the results, say what they say, write."""
    if len(arguments.names) != len(arguments.figures):
        raise UserError(
            f"--names names {len(arguments.names)} pictures, --figures {len(arguments.figures)}; one of each"
        )
    folder, index = arguments.output_page.parent, read_csv(arguments.index, "index")
    summaries = [read_json(path) for path in arguments.summaries]
    votes, pairs = read_csv(arguments.votes, "votes"), read_csv(arguments.pairs, "pairs")
    agreement = read_csv(arguments.agreement, "agreement") if arguments.agreement else None
    result = main_result(arguments) if arguments.numbers else None
    titles = json.loads(arguments.titles)
    links = [{"text": page_name(path, titles), "href": relative(path, folder)} for path in arguments.pages]
    content = {
        "origin": arguments.origin,
        "origin_warning": Table("", "", (), (), 0, origin=arguments.origin).warning,
        "classes": arguments.classes,
        "organ": index["organ"].iloc[0],
        "studied": studied(index, result),
        "facts": facts(index, arguments.classes[1], summaries, result),
        "result": result,
        "warnings": list(warnings(arguments, result, pairs, votes, agreement, summaries)),
        "lines": [
            {"name": "Privacy", "text": privacy_line(summaries)},
            {"name": "Label audit", "text": audit_line(votes, agreement)},
            {"name": "The paper's claims", "text": claims_line(read_csv(arguments.claims, "claims"))},
        ],
        "pictures": [
            {"source": picture(path), "name": name, "href": relative(path, folder)}
            for path, name in zip(arguments.figures, arguments.names, strict=True)
        ],
        "links": links,
    }
    write_text(render_page(_PAGE, **content), arguments.output_page)


def main_result(arguments: argparse.Namespace) -> dict[str, Any]:
    """The main table: its heading, what it may say, and its rows with the positions of their marks in percent."""
    if arguments.table is None or arguments.rows is None:
        raise UserError("--numbers needs --table and --rows, which say which table it is and what its rows are")
    rows, values = read_table_rows(arguments.rows), read_csv(arguments.numbers, "numbers")
    predictions = read_predictions(rows, arguments.experiments, arguments.predictions, arguments.classes)
    views = next(iter(predictions.values()))
    seeds, folds = views["seed"].nunique(), views["fold"].nunique()
    shown = marks(values)
    reference = next(mark for mark in shown if mark.is_reference)
    labels = "policy" if tables.share_labels(rows, predictions) else "original"
    sentence = critical_sentence(
        arguments.table, rows, values, reference.name, labels, seeds, arguments.holdout_protocol,
        arguments.pretraining_seeds,
    ).partition(": ")[2]  # fmt: skip
    edge = extent(shown)
    return {
        "title": tables.TITLES[arguments.table],
        "runs": f"{folds} folds × {counted(seeds, 'seed')}",
        "is_one_seed": seeds == 1,
        "networks": sum(not mark.is_baseline for mark in shown),
        "reading": sentence[:1].upper() + sentence[1:],
        "axis": axis_label(reference.name, share_labels(values)),
        "ticks": [
            {"at": position(tick, edge), "text": f"{tick:+d}".replace("-", "−") if tick else "0"}
            for tick in ticks(edge)
        ],
        "rows": [row_of(mark, edge) for mark in shown],
        "reference": reference,
        "has_paper": any(mark.paper == mark.paper for mark in shown),
    }


def row_of(mark: Mark, edge: float) -> dict[str, Any]:
    """A row of the page; None where there is no interval, no p value or no number of the paper."""

    def place(value: float) -> str | None:
        return None if value != value else position(value, edge)

    return {
        "name": mark.name,
        "kind": "reference" if mark.is_reference else "baseline" if mark.is_baseline else "network",
        "accuracy": number(mark.accuracy, 1),
        "interval": mark.interval,
        "p": None if mark.p != mark.p else p_value(mark.p),
        "low": place(mark.low),
        "high": place(mark.high),
        "arrows": [arrow for arrow, end in (("left", -mark.low), ("right", mark.high)) if end > edge],
        "at": place(mark.difference),
        "paper": None if mark.is_reference else place(mark.paper),
    }


def position(value: float, edge: float) -> str:
    """Where a difference lies on an axis from −edge to edge, in percent of its width; beyond the axis, at its end."""
    return f"{50 + 50 * min(max(value / edge, -1), 1):.2f}%"


def ticks(edge: float) -> list[int]:
    """Whole points to print at the axis, 0 in the middle, at most three on either side."""
    step = next(step for step in STEPS if edge / step < 4)
    most = int(edge // step)
    return [step * i for i in range(-most, most + 1)]


def studied(index: pd.DataFrame, result: Mapping[str, Any] | None) -> str:
    """What was studied, in a line."""
    text = f"Ultrasound of the {index['organ'].iloc[0]}: {len(index)} views of {index['patient_id'].nunique()} patients"
    return f"{text}, {counted(result['networks'], 'network')} compared over {result['runs']}" if result else text


def percent(share: float, digits: int = 0) -> str:
    """`20 %` of a share."""
    return f"{number(100 * share, digits)} %"


def facts(
    index: pd.DataFrame, positive: str, summaries: Sequence[Mapping[str, Any]], result: Mapping[str, Any] | None
) -> list[dict[str, str]]:
    """The numbers at the top: value and what it counts."""
    audited = all(summary["possible"] for summary in summaries)
    count = sum(summary["flagged"]["filtered"]["views"] if audited else summary["views"] for summary in summaries)
    generators = f" of {len(summaries)} generators" if len(summaries) > 1 else ""
    found = [
        {"value": str(index["patient_id"].nunique()), "text": f"patients with {len(index)} labelled views"},
        {"value": percent((index["label"] == positive).mean()), "text": f"of the views are labelled {positive}"},
        {
            "value": str(count),
            "text": f"generated views{generators} {'pass the manifold filter' if audited else 'before the manifold filter'}",
        },
    ]
    if result:
        reference = result["reference"]
        text = f"accuracy of {reference.name}, the reference, over {result['runs']}"
        found.append({"value": f"{number(reference.accuracy, 1)} %", "text": text})
    return found


def warnings(
    arguments: argparse.Namespace,
    result: Mapping[str, Any] | None,
    pairs: pd.DataFrame,
    votes: pd.DataFrame,
    agreement: pd.DataFrame | None,
    summaries: Sequence[Mapping[str, Any]],
) -> Iterator[str]:
    """What must be known before a number is quoted, the gravest first."""
    if arguments.split_by == "view":
        yield "Folds are of views, not of patients: the networks have seen other views of the patients they are tested on."
    if len(pairs):
        yield (
            f"{counted(len(pairs), 'pair')} of near-identical views belong to different patients: the same picture may be "
            "trained on and tested on."
        )
    shortcut = told_from(read_findings(arguments.shortcuts), arguments.classes[1])
    if shortcut:
        page = relative(arguments.shortcuts.with_suffix(".html"), arguments.output_page.parent)
        yield Markup('{} <a href="{}">Shortcuts</a>').format(f"{shortcut[:1].upper()}{shortcut[1:]}.", page)
    audited = [summary for summary in summaries if summary["possible"]]
    if len(audited) < len(summaries):
        yield "The synthetic views could not be audited for copies of training views: no patient was held out."
    copies = sum(summary["flagged"]["filtered"]["copies"] for summary in audited)
    if copies:
        yield f"{counted(copies, 'generated view')} that passed the filter are flagged as possible copies of training views."
    if result and result["is_one_seed"]:
        yield "One seed: the spread over seeds is unknown, so no difference between rows allows a verdict."
    if arguments.holdout_protocol == "none":
        yield f"{tables.HOLDOUTS['none']}."
    if agreement is None and (votes["suspicious"] == 1).any():
        yield "No clinician has read the suspicious labels yet; labels were changed by the audit alone."
    if not all(summary["rate_certified"] for summary in audited):
        fewest = min(summary["held_out_views"] for summary in audited)
        yield f"The copy audit's false-alarm rate cannot be certified: it rests on {fewest} views of held-out patients."
    missed = {row["kind"]: row["share"] for summary in audited for row in summary["planted"] if row["share"] < BLIND}
    if missed:
        kinds = ", ".join(f"{kind} ({percent(found)} found)" for kind, found in missed.items())
        yield f"The copy audit misses most planted copies of these kinds: {kinds}."


def privacy_line(summaries: Sequence[Mapping[str, Any]]) -> str:
    """Copies among the filtered views and the membership attack, over all generators."""
    if not all(summary["possible"] for summary in summaries):
        return "The audit for copies was not possible: no patient was held out. This does not make the set anonymous."
    flagged = [summary["flagged"]["filtered"] for summary in summaries]
    copies, generated = (sum(each[key] for each in flagged) for key in ("copies", "views"))
    attacks = [summary["membership_auc"]["filtered"] for summary in summaries]
    worst = max(attacks, key=lambda attack: attack["value"])
    control = max(summary["control"]["share"] for summary in summaries)
    return (
        f"{copies} of {generated} filtered views are flagged as copies of training views (of real views that the generator "
        f"never saw: {percent(control, 1)}); a membership attack reaches AUC {worst['value']:.2f} ({worst['low']:.2f} to "
        f"{worst['high']:.2f}), where 0.5 is chance. This does not make the set anonymous."
    )


def audit_line(votes: pd.DataFrame, agreement: pd.DataFrame | None) -> str:
    """How many labels are suspicious, and what a clinician said of them."""
    suspicious, judged = int((votes["suspicious"] == 1).sum()), int((votes["evaluations"] > 0).sum())
    text = f"{suspicious} of {judged} labels are suspicious ({percent(suspicious / max(judged, 1), 1)})"
    if agreement is None:
        return f"{text}; no clinician has decided them yet."
    read = agreement[(agreement["set"] == "suspicious") & (agreement["against"] == "original")].iloc[0]
    return (
        f"{text}; a clinician decided {counted(int(read['views']), 'view')} of them and agrees with the original label in "
        f"{percent(read['agreement'])}."
    )


def claims_line(claims: pd.DataFrame) -> str:
    """How many of the paper's claims have which result."""
    results = (*RESULTS[::-1], UNTESTED)
    return ", ".join(f"{(claims['result'] == result).sum()} {result}" for result in results) + f", of {len(claims)}."


def picture(path: Path) -> str:
    """A figure at most `WIDEST` pixels wide as a data URL."""
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(path) as image:
        small = image.convert("RGB")
        small.thumbnail((WIDEST, 2 * WIDEST), Image.Resampling.LANCZOS)
        small.save(buffer, format="JPEG", quality=85, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def relative(path: Path, folder: Path) -> str:
    """A link from a page in `folder` to a file of the results."""
    return quote(Path(os.path.relpath(path, folder)).as_posix())


def page_name(path: Path, titles: Mapping[str, str]) -> str:
    """What a link to a page is called; a table has the name of its file. `titles` are those of external sets by name."""
    if path.stem in PAGES:
        return PAGES[path.stem]
    if path.stem in tables.TITLES:
        name = f"Table {tables.table_number(path.stem)}"
        # tables/external/<name>/<table>.html
        external = path.parent.name if path.parent.parent.name == "external" else ""
        return f"{name}, external test on {titles.get(external, external)}" if external else name
    return path.stem.replace("_", " ").capitalize()


if __name__ == "__main__":
    run(main, parser())
