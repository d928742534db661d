"""The page of results: its numbers are those of the files, what must not be shown is not, and phantoms are refused."""

from pathlib import Path

import pytest
from PIL import Image

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_json, write_json, write_rows, write_text
from workflow_scripts.tools import write_results
from workflow_scripts.tools.write_results import BEGIN, END


def interval(name: str, value: float) -> dict[str, float]:
    return {name: value, f"{name}_low": value - 1, f"{name}_high": value + 1}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """What the page reads of a finished study of two patients."""
    results = tmp_path / "results"
    recipe = {"epochs": 7, "backbone_lr": 1e-4, "head_lr": 1e-3, "steps": 50, "batch_size": 48}
    settings = {
        "data": {"source": "files", "classes": ["benign", "malignant"], "target_organ": "breast", "size": 64,
                 "organs": ["breast"]},
        "model": {"backbone": "net"}, "seeds": [0, 1], "folds": 3, "split_by": "patient",
        "pretraining": {"recipe": recipe, "seeds": 3}, "finetuning": {"recipe": recipe, "labels": "complete"},
        "diffusion": {"recipe": recipe},
        "tables": {"table2": {"rows": [{"init": init, "variant": ""} for init in ("ud", "scratch", "imagenet", "majority")]}},
    }  # fmt: skip
    write_json(settings, results / "provenance" / "settings.json")
    crate = [
        {"@id": "workflow/Snakefile", "name": "tusflow", "version": "commit abc"},
        {"@id": "#torch", "name": "torch", "softwareVersion": "9.9"},
        {"@id": "urn:sha256:f00d", "name": "manifest", "sha256": "f00d", "description": "4 frames"},
    ]
    write_json({"@graph": crate}, results / "provenance" / "ro-crate-metadata.json")
    costs = [{"stage": "finetune", "jobs": 2, "seconds": 1234.4, "peak_mib": 800, "device": "CPU"}]
    write_rows(costs, list(costs[0]), results / "provenance" / "costs.csv")
    rows = [
        {"view_id": f"v{i}", "patient_id": f"p{i // 2}", "label": ("benign", "malignant")[i // 2]} for i in range(4)
    ]
    write_rows(rows, list(rows[0]), results / "views" / "labelled.csv")
    votes = [
        {"view_id": "v0", "label": "benign", "suspicious": 1},
        {"view_id": "v1", "label": "benign", "suspicious": 0},
    ]
    write_rows(votes, list(votes[0]), results / "audit" / "votes.csv")
    for name in ("claims", "table2", "generation", "shortcuts"):
        write_text(f"**About {name}**\n\n| a |\n| --- |\n| {name} |\n", results / "tables" / f"{name}.md")
    title = "**Table 2, external test on the others**\n\n| a |\n| --- |\n| 1 |\n"
    write_text(title, results / "tables" / "external" / "b" / "table2.md")
    scored = [
        {"name": "UD", "experiment": "ud-complete", "patients": 844, **interval("auroc", 71.25), **interval("difference", 2.5)},
        {"name": "ImageNet", "experiment": "imagenet-complete", "patients": 844, **interval("auroc", 68.75),
         "difference": "", "difference_low": "", "difference_high": ""},
        {"name": "majority class", "experiment": "majority-complete", "patients": 844, **interval("auroc", 50.0),
         **interval("difference", -18.75)},
    ]  # fmt: skip
    write_rows(scored, list(scored[0]), results / "tables" / "external" / "b" / "table2.csv")
    others = [
        {
            "view_id": f"o{i}",
            "image_id": f"o{i}",
            "patient_id": f"q{i}",
            "label": ("benign", "malignant")[i % 2],
            "side": "",
        }
        for i in range(20)
    ]
    write_rows(others, list(others[0]), results / "views" / "external" / "b.csv")
    # UD is always right, random weights always wrong, and ImageNet's as good as UD.
    for start, right in {"ud": 0.9, "scratch": 0.1, "imagenet": 0.9}.items():
        predicted = [
            {**view, "seed": 0, "fold": fold, "probability": right if view["label"] == "malignant" else 1 - right}
            for view in others for fold in (0, 1)
        ]  # fmt: skip
        columns = ["view_id", "patient_id", "label", "seed", "fold", "probability"]
        write_rows(
            [{column: row[column] for column in columns} for row in predicted], columns,
            results / "external" / "b" / f"{start}-complete.csv",
        )  # fmt: skip
    pairs = [f"{name}_{end}" for end in "ab" for name in ("set", "view", "patient")]
    write_rows([], [*pairs, "hash_distance", "distance"], results / "checks" / "near_duplicates.csv")
    learnt = [
        {"name": "UD, frozen", "share": 0.1, "patients": 15, **interval("auroc", 0.6), **interval("difference", 0.0)}
    ]
    write_rows(learnt, list(learnt[0]), results / "tables" / "label_efficiency.csv")
    for name in ("label_efficiency", "forest_table2", "figure4", "external/b/table2"):
        (results / "figures" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(results / "figures" / f"{name}.png")
    found = {"share": 0.01, "low": -0.02, "high": 0.04}
    summary = {
        "possible": True, "rate_certified": True, "may_say": "this", "may_not_say": "that", "caveats": "but",
        "flagged": {"filtered": {"copies": 0, "views": 9}}, "excess": {"filtered": found},
        "membership_auc": {"filtered": {"value": 0.5, "low": 0.4, "high": 0.6}},
    }  # fmt: skip
    write_json(summary, results / "synthesis" / "privacy.json")
    return results


def write(results: Path, *words: object) -> str:
    page = results.parent / "docs" / "results.md"
    flags = ["--results", results, "--output", page, *words]
    write_results.main(write_results.parser().parse_args([str(word) for word in flags]))
    return page.read_text(encoding="utf-8")


def test_the_page_has_the_numbers_of_the_files(study: Path):
    page = write(study, "--note", "Others used the machine too.")
    for text in (
        "4 labelled breast views of 2 patients (2 benign, 2 malignant), 64 px",
        "50 steps of 48 views, 3 for each mix", "7 epochs",
        "1 of 2 labels are suspicious (1 benign, 0 malignant)", "| finetune | 2 | 1234 | 800 |",
        "`f00d`", "commit abc", "torch 9.9",
        "| UD, frozen | 10% | 15 | 60.0 (-40.0 to 160.0) | ref. |",
        "| filtered | 0 of 9 | 1.0 (-2.0 to 4.0) | 50.0 (40.0 to 60.0) |",
        "### About table2", "## External test: the others", "Others used the machine too.",
    ):  # fmt: skip
        assert text in page
    shown = {line.partition("](")[2].rstrip(")") for line in page.splitlines() if line.startswith("![")}
    assert all((study.parent / "docs" / file).is_file() for file in shown)
    assert {"images/results_forest_table2.png", "images/results_figure4.png"} < shown


def test_questions_are_answered_on_the_external_patients(study: Path):
    page = write(study)
    always = "100.0 (100.0 to 100.0)"
    assert (
        f"| Does own pretraining help, against random weights? | fine-tuned | {always} | 0.0 (0.0 to 0.0) | {always} | yes |"
        in page
    )
    # No row continues from ImageNet's weights, and none is frozen.
    assert page.count("fine-tuned |") == 2
    assert "frozen |" not in page.partition("## The paper")[0]


def test_patients_that_the_study_has_as_well_answer_nothing(study: Path):
    pair = {
        "set_a": "labelled",
        "view_a": "v0",
        "patient_a": "p0",
        "set_b": "external/b",
        "view_b": "o0",
        "patient_b": "q0",
    }
    write_rows(
        [{**pair, "hash_distance": 0, "distance": 0.0}], [*pair, "hash_distance", "distance"],
        study / "checks" / "near_duplicates.csv",
    )  # fmt: skip
    file = study / "external" / "b" / "ud-complete.csv"
    lines = file.read_text(encoding="utf-8").splitlines()
    # The one patient that UD is wrong about is left out.
    wrong = [f"{line.rpartition(',')[0]},0.99" if line.startswith("o0,") else line for line in lines]
    write_text("\n".join(wrong) + "\n", file)
    perfect = "Does own pretraining help, against random weights? | fine-tuned | 100.0 (100.0 to 100.0) |"
    assert perfect in write(study)
    write_rows([], [*pair, "hash_distance", "distance"], study / "checks" / "near_duplicates.csv")
    assert perfect not in write(study)


@pytest.mark.parametrize(
    "change", [{"rate_certified": False}, {"possible": False}, {"flagged": {"filtered": {"copies": 1, "views": 9}}}]
)
def test_generated_views_are_shown_only_where_the_audit_allows_it(study: Path, change: dict):
    file = study / "synthesis" / "privacy.json"
    write_json({**read_json(file), **change}, file)
    page = write(study)
    assert "figure4" not in page
    assert not list((study.parent / "docs" / "images").glob("*figure4*"))


def test_the_readme_shows_the_external_patients(study: Path):
    readme = study.parent / "README.md"
    write_text(f"before\n{BEGIN}old\n{END}\nafter\n", readme)
    write(study, "--readme", readme)
    text = readme.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{BEGIN}")
    assert text.endswith(f"{END}\nafter\n")
    assert "| UD | 71.2 (70.2 to 72.2) | 2.5 (1.5 to 3.5) |" in text
    assert "| ImageNet | 68.8 (67.8 to 69.8) | ref. |" in text
    assert "majority" not in text
    assert "old" not in text
    assert text.count("](docs/images/results_") == 2
    assert "[docs/results.md](docs/results.md)" in text


def test_phantoms_and_unfinished_studies_are_refused(study: Path):
    file = study / "provenance" / "settings.json"
    settings = read_json(file)
    settings["data"]["source"] = "phantoms"
    write_json(settings, file)
    with pytest.raises(UserError, match="is a study of phantoms"):
        write(study)
    (study / "provenance" / "costs.csv").unlink()
    with pytest.raises(UserError, match="run the workflow to its end first"):
        write(study)
