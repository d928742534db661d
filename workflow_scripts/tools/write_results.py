"""Write a page about a finished study of patients from its files: every number of it comes from there.

    python -m workflow_scripts.tools.write_results --results results/busbra --output docs/results.md --readme README.md

The page has the paper's claims, the tables, charts, generation, privacy and audit, and what the run was made on, with and at
what cost. Charts are copied to `images` beside it. Pictures of generated views are among them only where the study's own
privacy audit found no copy among them and could certify its rate of false alarms. `--readme` has its block between the two
marks replaced by the rows on the external patients and two charts.

Run it on the machine of the study, since it names the processor.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv, read_json, read_rows, write_text
from workflow_scripts.core.statistics import drawn_auroc, times_drawn, with_interval
from workflow_scripts.runtime.cli import run, stage_parser
from workflow_scripts.study.experiments import experiment_of

if TYPE_CHECKING:
    import numpy as np

BEGIN, END = "<!-- results: python -m workflow_scripts.tools.write_results -->\n", "<!-- end of results -->"
MAIN_TABLE = "table2"
HEADINGS = {
    "table1": "Noisy labels", "table1_protocols": "Noisy labels, by protocol", "table2": "Pretraining",
    "table3": "Real and synthetic views in pretraining", "table4": "The organ loss",
}  # fmt: skip
# What a group asks before it pretrains: a question, and the starts whose difference answers it. `{organ}` is the target organ.
QUESTIONS = {
    "Do ImageNet's weights help, against random ones?": ("imagenet", "scratch"),
    "Does own pretraining help, against random weights?": ("ud", "scratch"),
    "Does own pretraining help after ImageNet, against ImageNet alone?": ("ud_from_imagenet", "imagenet"),
    "Does a second organ help pretraining, against the first alone?": ("ud", "ud_{organ}"),
    "Do synthetic views pretrain better than the real ones they imitate?": ("xg", "ud_{organ}"),
    "Do filtered synthetic views pretrain better than unfiltered ones?": ("xgf", "xg"),
}
WAYS = {"": "fine-tuned", "probe": "frozen"}
# Charts alone: other figures show views.
CHARTS = {"label_efficiency": "Frozen networks with fewer labelled patients", "calibration": "Calibration"}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), help="the study's folder (default: results)")
    parser.add_argument("--output", type=Path, required=True, help="the page, .md; charts go to `images` beside it")
    parser.add_argument(
        "--note", default="", help="a sentence about the run that no file has, such as who shared the machine"
    )
    parser.add_argument("--readme", type=Path, help="file with the two marks of the short version")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Check that the study is finished, then write."""
    study = Study(arguments.results, arguments.output.parent / "images", arguments.output.stem)
    write_text(page(study, arguments.note), arguments.output)
    if arguments.readme:
        text = arguments.readme.read_text(encoding="utf-8")
        if text.count(BEGIN) != 1 or text.count(END) != 1:
            raise UserError(f"{arguments.readme} needs one line {BEGIN.strip()!r} and one {END!r} after it")
        before, _, rest = text.partition(BEGIN)
        folder = os.path.relpath(study.images, arguments.readme.parent)
        link = os.path.relpath(arguments.output, arguments.readme.parent)
        write_text(f"{before}{BEGIN}{short(study, folder, link)}{END}{rest.partition(END)[2]}", arguments.readme)


class Study:
    """The files of a finished study. `UserError` where it is not finished, or one of phantoms."""

    def __init__(self, results: Path, images: Path, prefix: str) -> None:
        self.results, self.images, self.prefix = results, images, prefix
        if not (results / "provenance" / "costs.csv").is_file():
            raise UserError(f"{results}/provenance/costs.csv does not exist; run the workflow to its end first")
        self.settings: dict[str, Any] = read_json(results / "provenance" / "settings.json")
        if self.settings["data"]["source"] == "phantoms":
            raise UserError(f"{results} is a study of phantoms; a page of results is about patients")
        self.crate: list[dict[str, Any]] = read_json(results / "provenance" / "ro-crate-metadata.json")["@graph"]
        self.costs = read_rows(results / "provenance" / "costs.csv")

    def tables(self) -> list[str]:
        """Its tables of rows, in order."""
        return [name for name in HEADINGS if (self.results / "tables" / f"{name}.md").is_file()]

    def external(self) -> list[str]:
        """Its external sets."""
        return [folder.name for folder in sorted((self.results / "tables" / "external").glob("*")) if folder.is_dir()]

    def table(self, name: str) -> str:
        """A table in Markdown, its title as a heading of the third level."""
        title, _, rest = (self.results / "tables" / f"{name}.md").read_text(encoding="utf-8").partition("\n")
        return f"### {title.strip('*')}\n{rest}"

    def chart(self, name: str, text: str) -> str:
        """A chart, copied beside the page, in Markdown; nothing where the study has none of this name."""
        source = self.results / "figures" / f"{name}.png"
        if not source.is_file():
            return ""
        self.images.mkdir(parents=True, exist_ok=True)
        file = f"{self.prefix}_{name.replace('/', '_')}.png"
        shutil.copyfile(source, self.images / file)
        return f"![{text}](images/{file})\n"


def page(study: Study, note: str = "") -> str:
    """The whole page."""
    answered = answers(study)
    parts = [
        f"<!-- Written by `python -m workflow_scripts.tools.write_results --results {study.results}`: change it there. -->",
        "# Results on patients", introduction(study), "## Does pretraining help?" if answered else "", answered,
        "## The paper's claims, and what these patients say", study.table("claims").partition("\n")[2].strip(),
        "## Tables",
    ]  # fmt: skip
    for name in study.tables():
        parts += [study.table(name), study.chart(f"forest_{name}", f"{HEADINGS[name]}: differences with intervals")]
    parts += ["## Fewer labelled patients", efficiency(study)]
    parts += [study.chart(name, text) for name, text in CHARTS.items()]
    for external in study.external():
        parts.append(f"## External test: {title_of(study, external)}")
        for name in study.tables():
            parts += [
                study.table(f"external/{external}/{name}"),
                study.chart(f"external/{external}/{name}", f"{HEADINGS[name]}, external patients: AUROC"),
            ]
    parts += ["## Generated views and the filter", study.table("generation"), generated(study)]
    parts += ["## Privacy", privacy(read_json(study.results / "synthesis" / "privacy.json"))]
    parts += ["## The label audit", audit(study), study.chart("audit_sweep", "What other thresholds of the audit find")]
    parts += ["## Shortcuts", study.table("shortcuts")]
    parts += ["## What it was made on, with, and at what cost", note, origin(study)]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def introduction(study: Study) -> str:
    """Who was studied, and how."""
    settings = study.settings
    rows = read_rows(study.results / "views" / "labelled.csv")
    label_of = {row["patient_id"]: row["label"] for row in rows}
    negative, positive = settings["data"]["classes"]
    counts = Counter(row["label"] for row in rows)
    recipe, pretraining = settings["finetuning"]["recipe"], settings["pretraining"]
    return (
        f"{len(rows)} labelled {settings['data']['target_organ']} views of {len(label_of)} patients "
        f"({counts[negative]} {negative}, {counts[positive]} {positive}), {settings['data']['size']} px. "
        f"{settings['model']['backbone']}, {settings['folds']} folds by {settings['split_by']}, seeds "
        f"{', '.join(map(str, settings['seeds']))}. Pretraining: {pretraining['recipe']['steps']} steps of "
        f"{pretraining['recipe']['batch_size']} views, {pretraining['seeds']} for each mix. Fine-tuning: "
        f"{recipe['epochs']} epochs, learning rates {recipe['backbone_lr']:g} (backbone) and {recipe['head_lr']:g} (head). "
        f"Generator: {settings['diffusion']['recipe']['steps']} steps of {settings['diffusion']['recipe']['batch_size']} views."
        "\n\n"
        "Intervals are 95 %. The paper's own numbers are about another organ, other patients and longer training runs: that a "
        "claim is not confirmed here says that these patients and this budget do not show it."
    )  # fmt: skip


def title_of(study: Study, external: str) -> str:
    """The printed name of an external set, from the title of its tables: settings of external sets are not shared."""
    title = (study.results / "tables" / "external" / external / f"{MAIN_TABLE}.md").read_text(encoding="utf-8")
    return title.partition("\n")[0].strip("*").partition("external test on ")[2] or external


def answers(study: Study) -> str:
    """Each of QUESTIONS that the study's rows can answer, on the first set of external patients; nothing where it has none.

    The difference of AUROC by patient, of the same redraws of the patients.
    """
    if not (sets := study.external()):
        return ""
    scored = external_auroc(study, sets[0])
    organ, lines = study.settings["data"]["target_organ"], []
    for question, starts in QUESTIONS.items():
        first, second = (start.format(organ=organ) for start in starts)
        for variant, way in WAYS.items():
            if (first, variant) in scored and (second, variant) in scored:
                draws = scored[first, variant], scored[second, variant]
                difference = with_interval("value", draws[0] - draws[1])
                low, high = difference["value_low"], difference["value_high"]
                answer = "yes" if low > 0 else "no, it harms" if high < 0 else "not shown"
                each = [_interval(with_interval("value", one)) for one in draws]
                lines.append([question, way, *each, _interval(difference), answer])
    if not lines:
        return ""
    note = (
        f"\nAUROC by patient on {title_of(study, sets[0])}, percent, of the ensemble of each row's networks. Brackets: 95 % over "
        "patients, the difference of the same redraws, given the trained networks, and not corrected for the number of "
        "questions. Fine-tuned: all weights learn. Frozen: logistic regression on the features as they are."
    )
    return grid(["question", "network", "with", "without", "difference", "answer"], lines) + note


def external_auroc(study: Study, name: str) -> dict[tuple[str, str], np.ndarray]:
    """AUROC by patient of every redraw of the external patients, float64 (1 + draws,), by start and variant of a row."""
    from workflow_scripts.tables.make_external_table import duplicated_patients, pooled_patients, read_external

    settings, classes = study.settings, study.settings["data"]["classes"]
    shown = {experiment_of(row, settings) for table in study.tables() for row in settings["tables"][table]["rows"]}
    files = {
        each: study.results / "external" / name / f"{each.name}.csv"
        for each in sorted(shown, key=lambda each: each.name)
        if each.labels == settings["finetuning"]["labels"] and not each.is_baseline
    }
    index = read_csv(study.results / "views" / "external" / f"{name}.csv")
    learnt = [study.results / "views" / f"{organ}.csv" for organ in settings["data"]["organs"]]
    # Their pixels were seen by pretraining: then a near-duplicate of a view without label is none.
    were_seen = any(set(index["patient_id"]) & set(read_csv(file)["patient_id"]) for file in learnt if file.is_file())
    pairs = read_csv(study.results / "checks" / "near_duplicates.csv")
    left_out = duplicated_patients(pairs, f"external/{name}", were_seen)
    predictions = read_external([each.name for each in files], [*files.values()], index, classes)
    areas = {}
    for each in files:
        table = predictions[each.name]
        patients = pooled_patients(table[~table["patient_id"].isin(left_out)], index, classes)
        truth = (patients["truth"] == classes[1]).to_numpy()
        areas[each.init, each.variant] = drawn_auroc(patients["probability"].to_numpy(), truth, times_drawn(len(truth)))
    return areas


def efficiency(study: Study) -> str:
    """The label-efficiency figure's numbers; nothing where no network was probed."""
    file = study.results / "tables" / "label_efficiency.csv"
    if not file.is_file():
        return "No network was probed."
    rows = read_rows(file)
    lines = [
        [row["name"], f"{float(row['share']):.0%}", row["patients"], _interval(row, "auroc"),
         "ref." if row["name"] == rows[0]["name"] else _interval(row, "difference")]
        for row in rows
    ]  # fmt: skip
    note = (
        "\nAUROC (percent) of the views, out of fold, of a linear classifier on frozen features; differences to the first "
        "network with the same share of the training patients."
    )
    return grid(["network", "share", "patients", "AUROC", "difference"], lines) + note


def _interval(row: Mapping[str, str | float], name: str = "value", factor: float = 100.0) -> str:
    value, low, high = (factor * float(row[key]) for key in (name, f"{name}_low", f"{name}_high"))
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first column is text."""
    lines = [header, [":---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', ' ') for cell in line)} |" for line in lines) + "\n"


def may_be_shown(summary: Mapping[str, Any]) -> bool:
    """Whether the privacy audit lets generated views be shown: it was possible, could certify its rate, and flagged none."""
    return bool(
        summary["possible"] and summary["rate_certified"] and not any(kind["copies"] for kind in summary["flagged"].values())
    )  # fmt: skip


def generated(study: Study) -> str:
    """Figure 4 where the audit allows it; otherwise a sentence that says why it is left out."""
    if may_be_shown(read_json(study.results / "synthesis" / "privacy.json")):
        return study.chart("figure4", "Generated views that the filter keeps and discards")
    return (
        "No generated view is shown: that takes a privacy audit that certifies its rate of false alarms and flags no view, "
        "filtered or not."
    )


def privacy(summary: Mapping[str, Any]) -> str:
    """What the copy audit found."""
    if not summary["possible"]:
        return f"No audit was possible. {summary['caveats']}"
    rows = [
        [
            name, f"{kind['copies']} of {kind['views']}",
            *(_interval(_flat(summary[what][name])) for what in ("excess", "membership_auc")),
        ]
        for name, kind in summary["flagged"].items()
    ]  # fmt: skip
    header = ["generated views", "flagged as copies", "excess over the control, points", "membership AUC, percent"]
    return (
        grid(header, rows)
        + f"\nMay be said: {summary['may_say']}\n\nMay not be said: {summary['may_not_say']}\n\n{summary['caveats']}"
    )


def _flat(interval: Mapping[str, float]) -> dict[str, float]:
    value = interval["share"] if "share" in interval else interval["value"]
    return {"value": value, "value_low": interval["low"], "value_high": interval["high"]}


def audit(study: Study) -> str:
    """How many labels the audit finds suspicious."""
    votes = read_rows(study.results / "audit" / "votes.csv")
    suspicious = [row for row in votes if row["suspicious"] == "1"]
    by_class = Counter(row["label"] for row in suspicious)
    each = ", ".join(f"{by_class[name]} {name}" for name in study.settings["data"]["classes"])
    return f"{len(suspicious)} of {len(votes)} labels are suspicious ({each})."


def origin(study: Study) -> str:
    """Machine, versions, hashes, seconds."""
    software = {each["name"]: each["softwareVersion"] for each in study.crate if "softwareVersion" in each}
    hashed = [each for each in study.crate if "sha256" in each and "description" in each]
    code = next(each["version"] for each in study.crate if each["@id"] == "workflow/Snakefile")
    costs = [
        [row["stage"], row["jobs"], f"{float(row['seconds']):.0f}", f"{float(row['peak_mib']):.0f}"]
        for row in sorted(study.costs, key=lambda row: -float(row["seconds"]))
        if float(row["seconds"]) >= 1
    ]
    total = sum(float(row["seconds"]) for row in study.costs)
    devices = ", ".join(sorted({row["device"] for row in study.costs}))
    return "\n".join(
        [
            f"{processor()}, {os.cpu_count()} cores; device: {devices}. {total / 3600:.1f} hours of jobs in all, which run "
            "side by side and wait for one another.\n",
            f"Code: {code}. " + ", ".join(f"{name} {version}" for name, version in software.items()) + ".\n",
            grid(["stage", "jobs", "seconds", "peak MiB"], costs),
            grid(
                ["input", "extent", "SHA-256"],
                [[each["name"], each["description"], f"`{each['sha256']}`"] for each in hashed],
            ),
        ]
    )


def processor() -> str:
    """The processor's name."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()


def short(study: Study, folder: str, link: str) -> str:
    """The block of the README: AUROC of the main table's rows by external patients, or out of fold; two charts."""
    external = study.external()
    if external:
        name, what = f"external/{external[0]}/{MAIN_TABLE}", title_of(study, external[0])
        # A constant prediction ranks nobody.
        scored = read_rows(study.results / "tables" / f"{name}.csv")
        values = [row for row in scored if not row["experiment"].startswith("majority-")]
        header = ["start", "AUROC (95 % by patient)", "difference"]
        rows = [
            [row["name"], _interval(row, "auroc", 1), _interval(row, "difference", 1) if row["difference"] else "ref."]
            for row in values
        ]
        learnt = len({row["patient_id"] for row in read_rows(study.results / "views" / "labelled.csv")})
        data = study.settings["data"]
        whose = (
            f"{data['target_organ'].capitalize()} ultrasound at {data['size']} pixels, learnt from {learnt} patients"
        )
        text = f"{whose}, tested on {what}. AUROC, percent:\n\n{grid(header, rows)}"
        second = study.chart(name, f"AUROC on {what}")
    else:
        text, second = study.table(MAIN_TABLE), study.chart(f"forest_{MAIN_TABLE}", HEADINGS[MAIN_TABLE])
    first = study.chart("label_efficiency", CHARTS["label_efficiency"])
    charts = " ".join(each.strip() for each in (first, second) if each).replace("](images/", f"]({folder}/")
    return f"{text}\n{charts}\n\nAll of it, with what was cut: [{link}]({link}).\n"


if __name__ == "__main__":
    run(main, parser())
