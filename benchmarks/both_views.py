"""Both views of a lesion against single views, on the patients of a finished study by studies/busbra_quick.yaml.

BUS-BRA's views of a patient show one lesion, for which its manifest has no side; here they are one organ side. The networks
of the study's row `imagenet`, which see single views, are the reference. Rows: the mean logit of what they say of both views
(`variant: mean_logits`), networks trained on both views (`paired`), and the mean logit of what these say
(`paired_mean_logits`). The test is the tables': accuracy, paired by seed and fold, Nadeau and Bengio's interval, p values
corrected by Holm. On the study's external patients the tables pool a patient's views, so there are two rows: the networks.

    python -m benchmarks.both_views --results results/busbra_quick --weights weights/tf_efficientnet_lite0_imagenet.safetensors \\
        [--work-dir EMPTY_FOLDER]

An interrupted run with the same `--work-dir` continues. The table of docs/data.md is written by this command.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import write_result

PAGE = Path(__file__).parents[1] / "docs" / "data.md"
SINGLE = "imagenet-complete"
EXTERNAL = "others"
PAIRED = f"{SINGLE}-paired"
FUSED = {f"{SINGLE}-mean_logits": SINGLE, f"{SINGLE}-paired_mean_logits": PAIRED}
NAMES = ("single", "trained in pairs", "single, fused", "trained in pairs, fused")
TITLES = dict(zip([SINGLE, PAIRED, *FUSED], NAMES, strict=True))


def call(stage: Any, *flags: Any) -> None:
    """Run a stage in this process, unless all of its outputs are there."""
    from workflow_scripts.runtime.cli import run

    words = [str(flag) for flag in flags]
    outputs = [Path(word.partition("=")[2]) for word in words if word.startswith("--output-") and "=" in word]
    if not all(file.is_file() for file in outputs):
        for file in outputs:
            file.parent.mkdir(parents=True, exist_ok=True)
        run(stage.main, stage.parser(), words)


def make_rows(study: Path, weights: Path, folder: Path) -> dict[str, list[Path]]:
    """The out-of-fold predictions of each row by seed; `external.csv` is what the networks of pairs say of the others."""
    from workflow_scripts.core.files import read_csv, read_json, write_csv
    from workflow_scripts.finetuning import finetune, fuse_views, predict_external
    from workflow_scripts.study.experiments import COUPLED

    config = read_json(study / "provenance" / "settings.json")
    classes, seeds, recipe = config["data"]["classes"], config["seeds"], config["finetuning"]["recipe"]
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(read_csv(study / "views" / "labelled.csv").fillna("").assign(side="left"), folder / "index.csv")
    views = f"--views={study}/views/labelled.npy", f"--index={folder}/index.csv"
    networks = []
    for seed in seeds:
        files = [folder / PAIRED / f"seed{seed}_fold{fold}.safetensors" for fold in range(config["folds"])]
        call(
            finetune, *views, f"--labels={study}/labels/complete.csv", f"--folds={study}/folds/seed{seed}.csv",
            f"--seed={seed}", f"--backbone={config['model']['backbone']}", "--layout=timm", f"--weights={weights}",
            *(f"--{key.replace('_', '-')}={recipe[key]}" for key in ("epochs", "batch_size", "backbone_lr", "head_lr")),
            f"--coupled={COUPLED['paired']}", "--device=cpu", f"--work-dir={folder}/training/seed{seed}",
            f"--output-predictions={folder}/{PAIRED}/seed{seed}.csv",
            f"--output-training={folder}/{PAIRED}/seed{seed}_training.csv",
            "--classes", *classes, "--output-weights", *files,
        )  # fmt: skip
        networks += files
    rows = {name: [folder / name / f"seed{seed}.csv" for seed in seeds] for name in TITLES}
    rows[SINGLE] = [study / "finetuning" / SINGLE / f"seed{seed}.csv" for seed in seeds]
    for name, of in FUSED.items():
        for single, fused in zip(rows[of], rows[name], strict=True):
            call(
                fuse_views, f"--predictions={single}", f"--index={folder}/index.csv", f"--output-predictions={fused}",
                "--classes", *classes,
            )  # fmt: skip
    call(
        predict_external, f"--views={study}/views/external/{EXTERNAL}.npy", f"--index={study}/views/external/{EXTERNAL}.csv",
        "--device=cpu", f"--output-predictions={folder}/external.csv", "--classes", *classes, "--weights", *networks,
    )  # fmt: skip
    return rows


def tabulate(study: Path, folder: Path, rows: dict[str, list[Path]]) -> list[dict[str, Any]]:
    """The tables' numbers of each row: out of fold, and of the external patients where it has networks of its own."""
    from workflow_scripts.core.files import read_csv, read_json
    from workflow_scripts.tables import make_external_table, make_table

    classes = read_json(study / "provenance" / "settings.json")["data"]["classes"]
    named = [
        {"name": title, "experiment": name, "paper": "ud" if name == SINGLE else ""} for name, title in TITLES.items()
    ]
    trained = {SINGLE: study / "external" / EXTERNAL / f"{SINGLE}.csv", PAIRED: folder / "external.csv"}
    call(
        make_table, "--table=table2", f"--rows={json.dumps(named)}", "--spread=runs", "--no-reference-numbers",
        *_outputs(folder / "table"), f"--output-figure={folder}/forest.png", "--experiments", *rows, "--classes", *classes,
        "--predictions", *(file for files in rows.values() for file in files),
    )  # fmt: skip
    call(
        make_external_table, "--table=table2", f"--external={EXTERNAL}", "--title=external patients",
        "--seen-without-labels",
        f"--rows={json.dumps([row for row in named if row['experiment'] in trained])}", "--experiments", *trained,
        f"--index={study}/views/external/{EXTERNAL}.csv", f"--real-index={study}/views/labelled.csv",
        f"--pairs={study}/checks/near_duplicates.csv", *_outputs(folder / "external_table"),
        f"--output-figure={folder}/external.png", f"--output-calibration={folder}/calibration.png", "--classes", *classes,
        "--predictions", *trained.values(),
    )  # fmt: skip
    table, external = (read_csv(folder / f"{name}.csv").set_index("experiment") for name in ("table", "external_table"))
    result = []
    for name, title in TITLES.items():
        keys = ["accuracy_mean", "accuracy_std", "auroc_mean", "difference_mean", "difference_low", "difference_high"]
        row = {"row": title, "out_of_fold": table.loc[name, [*keys, "p_corrected"]].dropna().to_dict()}
        if name in external.index:
            keys = [f"{key}{part}" for key in ("auroc", "difference") for part in ("", "_low", "_high")]
            row["external"] = external.loc[name, ["patients", *keys]].dropna().to_dict()
        result.append(row)
    return result


def _outputs(stem: Path) -> Sequence[str]:
    return [f"--output-{kind}={stem}.{kind}" for kind in ("csv", "md", "tex", "html")]


def write_page(rows: Sequence[dict[str, Any]]) -> None:
    """Write the table of docs/data.md."""
    from workflow_scripts.core.tables import p_value

    lines = [
        "| row | accuracy, out of fold | AUROC | difference to single | p | AUROC, external patients | difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        own, cells = row["out_of_fold"], [row["row"]]
        cells += [f"{own['accuracy_mean']:.1f} ± {own['accuracy_std']:.1f}", f"{own['auroc_mean']:.1f}"]
        cells += (
            [_interval(own, "difference_mean", "difference"), p_value(own["p_corrected"])]
            if "p_corrected" in own
            else 2 * ["–"]
        )
        outside = row.get("external", {})
        cells += [_interval(outside, name, name) if name in outside else "–" for name in ("auroc", "difference")]
        lines.append(f"| {' | '.join(cells)} |")
    begin, end = "<!-- benchmark: both_views -->\n", "<!-- end -->"
    head, rest = PAGE.read_text(encoding="utf-8").split(begin)
    PAGE.write_text(head + begin + "\n".join(lines) + "\n" + rest[rest.index(end) :], encoding="utf-8")


def _interval(values: dict[str, float], name: str, ends: str) -> str:
    return f"{values[name]:.1f} ({values[f'{ends}_low']:.1f} to {values[f'{ends}_high']:.1f})"


def main() -> None:
    """Train, fuse, test; write benchmarks/results/both_views.json and the table of docs/data.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="results of the finished study")
    parser.add_argument("--weights", type=Path, required=True, help="the file of its initialisation `imagenet`")
    parser.add_argument("--work-dir", type=Path, help="kept, for a run that continues an interrupted one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.work_dir or Path(name)
        rows = tabulate(arguments.results, folder, make_rows(arguments.results, arguments.weights, folder))
    for row in rows:
        print(row)
    print(write_result("both_views", rows))
    write_page(rows)


if __name__ == "__main__":
    main()
