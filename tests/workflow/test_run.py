"""The workflow from frames to tables, at its smallest: results, partial reruns, SIGKILL in the middle."""

import csv
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.golden import differences, golden_file, numbers, platform_name
from tests.shared import REPOSITORY
from tests.workflow.study import ENVIRONMENT, Study, bare_copy, phantom_study, smallest_study
from tests.workflow.test_real import holds
from workflow_scripts.core.files import read_csv, read_npy, write_csv

pytestmark = pytest.mark.slow


def test_every_table_has_its_rows(finished: Study):
    tables = finished.folder / "results" / "tables"
    for name, rows in {"table1": 3, "table2": 3, "table3": 2, "table4": 1}.items():
        table = read_csv(tables / f"{name}.csv")
        assert len(table) == rows
        assert table["accuracy_mean"].between(0, 100).all()
        for suffix in ("md", "tex", "html"):
            text = (tables / f"{name}.{suffix}").read_text(encoding="utf-8")
            assert "PHANTOM" in text
    assert {"unfiltered", "filtered"} <= set(read_csv(tables / "generation.csv")["name"])


def test_the_numbers_are_those_that_the_repository_keeps(finished: Study):
    if not golden_file().is_file():
        pytest.skip(f"no numbers are kept for {platform_name()}: `make golden` on such a machine writes them")
    changed = differences(read_csv(golden_file()), numbers(finished.folder / "results" / "tables"))
    assert not changed, f"numbers moved; if they should, `make golden`, and a line in CHANGELOG.md:\n{changed}"


def test_a_finished_study_says_what_it_was_made_of_and_names_no_patient(finished: Study):
    crate = finished.folder / "results" / "provenance"
    about = json.loads((crate / "ro-crate-metadata.json").read_text(encoding="utf-8"))["@graph"]
    (action,) = [entity for entity in about if entity["@type"] == "CreateAction"]
    tables = {f"tables/{name}" for name in finished.tables()}
    assert {each["@id"] for each in action["result"]} == {*tables, "costs.csv"}
    assert all((crate / table).read_bytes() == (finished.folder / "results" / table).read_bytes() for table in tables)
    with (finished.folder / "data_manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    ids = {row[column] for row in rows for column in ("image_id", "patient_id", "path")} - {""}
    for file in filter(Path.is_file, crate.rglob("*")):
        text = file.read_text(encoding="utf-8")
        assert not [name for name in ids if name in text], file.name
        assert str(finished.folder) not in text, file.name


def test_every_view_is_predicted_once_by_a_fold_that_did_not_see_its_patient(finished: Study):
    results = finished.folder / "results"
    views = read_csv(results / "views" / "labelled.csv")
    folds = read_csv(results / "folds" / "seed0.csv").set_index("view_id")
    assert (folds.groupby("patient_id")["fold"].nunique() == 1).all()
    for file in (results / "finetuning").glob("*/seed0.csv"):
        table = read_csv(file)
        assert sorted(table["view_id"]) == sorted(views["view_id"])
        assert (table["fold"] == table["view_id"].map(folds["fold"])).all()


def test_views_hold_the_boxes_of_every_frame(finished: Study):
    results = finished.folder / "results"
    with (finished.folder / "data_manifest.csv").open() as file:
        frames = list(csv.DictReader(file))
    sizes = {name: len(read_npy(results / "views" / f"{name}.npy")) for name in ("labelled", "testicle", "thyroid")}
    assert sum(sizes.values()) == 2 * len(frames)
    assert sizes["labelled"] == 2 * sum(bool(frame["label"]) for frame in frames)


def test_report_release_and_model_card_say_phantom(finished: Study):
    results = finished.folder / "results"
    assert "PHANTOM" in (results / "report.html").read_text(encoding="utf-8")
    front = (results / "index.html").read_text(encoding="utf-8")
    assert "PHANTOM" in front
    links = re.findall(r'href="([^"]+)"', front)
    assert len(links) == 4 + 14  # pictures; report, review, reading, claims, privacy and the tables
    assert all((results / link).is_file() for link in links)
    assert "PHANTOM" in (results / "diffusion" / "model" / "README.md").read_text(encoding="utf-8")
    shutil.unpack_archive(results / "release" / "synthetic.zip", finished.folder / "unpacked")
    assert "PHANTOM" in next((finished.folder / "unpacked").rglob("README.md")).read_text(encoding="utf-8")


def test_no_artefact_names_the_machine_or_is_for_others(finished: Study):
    results = finished.folder / "results"
    host = re.compile(rf"\b{re.escape(platform.node())}\b")
    boards = list((results / "tensorboard").rglob("events.*"))
    assert boards
    for path in (path for path in results.rglob("*") if path.is_file()):
        data = path.read_bytes()
        assert not holds(data, str(finished.folder)), path
        assert not holds(data, str(REPOSITORY)), path
        assert not host.search(path.name), path
        # Pictures, arrays and the report's scripts hold any short word.
        if path.suffix in (".jsonl", ".log", ".json", ".csv", ".md"):
            assert not host.search(data.decode("utf-8")), path
        if path.suffix in (".npy", ".png", ".csv", ".safetensors", ".zip"):
            below = [path, *(parent for parent in path.parents if results in parent.parents)]
            assert any(not part.stat().st_mode & 0o007 for part in below), path


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium on this machine")
def test_the_report_opens_in_a_browser_without_an_error(finished: Study, tmp_path: Path):
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    page = finished.folder / "results" / "report.html"
    done = subprocess.run(
        ["chromium", *options, "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path}",
         "--enable-logging=stderr", "--virtual-time-budget=10000", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    for text in ("PHANTOM", "Tables", "Synthetic views", "Label audit", "Training"):
        assert text in done.stdout
    assert "Uncaught" not in done.stderr
    assert "CONSOLE" not in done.stderr or "error" not in done.stderr.partition("CONSOLE")[2].lower()


def test_a_finished_study_has_nothing_left_to_do(finished: Study):
    assert finished.planned() == {}


def test_a_command_that_looks_different_reruns_nothing_by_itself(finished: Study):
    """Threads, times and GPUs are words of the commands and change no result."""
    more = ["--set-threads", "crop_views=1", "--set-resources", "finetune:runtime=99", "pretrain:gpu=2"]
    assert finished.planned(*more) == {}


def test_touching_files_reruns_nothing(finished: Study, tmp_path: Path):
    study = copy_of(finished, tmp_path)
    for name in ("views/labelled.npy", "labels/complete.csv", "pretraining/ud/backbone.safetensors"):
        (study.folder / "results" / name).touch()
    assert study.planned() == {}


def test_only_what_is_affected_runs(finished: Study, tmp_path: Path):
    study = copy_of(finished, tmp_path)
    (study.folder / "results" / "tables" / "table2.md").unlink()
    assert study.planned() == {
        "make_table": 1, "check_claims": 1, "make_report": 1, "make_front_page": 1,
    }  # fmt: skip
    seed = study.change("seed", {"seeds": [0, 1]}).planned("finetuning")
    # A second seed audits and fine-tunes for itself; nothing that exists is trained again but what its votes change.
    assert seed["train_audit"] == 1
    assert "pretrain" not in seed
    assert "train_diffusion" not in seed
    rows = {
        "tables": {
            "table2": {
                "rows": [{"name": "Xgf too", "init": "xgf"}, {"name": "filtered", "init": "xgf", "labels": "filtered"}]
            }
        }
    }
    assert study.change("row", rows).planned("tables") == {
        "clean_labels": 1, "finetune": 1, "make_table": 1, "make_levels": 1, "make_operating_points": 1,
        "check_claims": 1,
    }  # fmt: skip
    forced = study.planned("--forcerun", "pretrain")
    assert forced["pretrain"] == 2
    assert "train_diffusion" not in forced
    assert "crop_views" not in forced


def test_a_changed_setting_reruns_the_stages_it_belongs_to(finished: Study, tmp_path: Path):
    study = copy_of(finished, tmp_path)
    planned = study.change("steps", {"synthesis": {"recipe": {"steps": 4}}}).planned("tables")
    assert planned["sample_shard"] == 1
    assert "train_diffusion" not in planned
    assert "train_audit" not in planned
    # The copy encoder has a stage of its own: what the audit of copies is tuned with retrains nothing else.
    planned = study.change("copies", {"manifold": {"privacy": {"encoder_steps": 3}}}).planned()
    assert planned == {
        "embed_copies": 1, "audit_privacy": 1, "draw_closest_pairs": 1, "find_text": 1, "pack_release": 1,
        "make_reading_page": 1, "make_report": 1, "make_front_page": 1,
    }  # fmt: skip
    planned = study.change("figure", {"figures": {"views_per_sheet": 6}}).planned()
    assert planned == {"draw_views": 3, "make_report": 1, "make_front_page": 1}


@pytest.fixture
def edited(finished: Study, tmp_path: Path) -> Study:
    """A finished study, and a copy of the repository that plans it and may be edited."""

    def ignored(folder: str, names: list[str]) -> set[str]:
        made = {"results", "data", "weights"} if Path(folder) == REPOSITORY else set()
        return {name for name in names if name.startswith(".") or name in {"__pycache__", *made}}

    shutil.copytree(REPOSITORY, tmp_path / "repository", ignore=ignored)
    return replace(copy_of(finished, tmp_path), repository=tmp_path / "repository")


# They name files of the repository by their place, and the copy has another.
MOVED = {"make_review_page": 1, "make_reading_page": 1, "make_report": 1, "make_front_page": 1}
LOSS = "workflow_scripts/networks/contrastive.py"


def edit(study: Study, file: str, old: str, new: str) -> None:
    """Replace a text in the study's copy of the repository."""
    path = study.repository / file
    text = path.read_text()
    assert text.count(old) == 1, f"{file} holds {old!r} {text.count(old)} times"
    path.write_text(text.replace(old, new))


def test_comments_retrain_nothing_and_a_plot_draws_itself_alone(edited: Study):
    edit(edited, LOSS, "The contrastive loss L_con", "L_con, the contrastive loss")
    edit(edited, LOSS, "        count = len(views)\n", "        # Both views of each.\n        count = len(views)\n")
    edit(edited, "rules/pretraining.smk", "rule pretrain:\n", "# A word.\nrule pretrain:\n")
    assert edited.planned() == MOVED
    edit(
        edited,
        "workflow_scripts/pretraining/draw_training.py",
        "runs, arguments.origin",
        "dict(runs), arguments.origin",
    )
    assert edited.planned() == {"draw_training": 1, **MOVED}


def test_a_changed_loss_trains_again_what_it_teaches(edited: Study):
    edit(edited, LOSS, "views @ views.T / temperature", "views @ views.T / temperature**2")
    planned = edited.planned("tables")
    # Both encoders, the five fine-tunings that start from one of them, and what they feed; no frame, audit or generator.
    assert (planned["pretrain"], planned["finetune"]) == (2, 5)
    assert not {"crop_views", "train_audit", "train_diffusion", "sample_shard"} & set(planned)


def test_two_jobs_at_once_have_a_gpu_each(finished: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # Named, not there: the jobs claim them all the same, and then compute on the CPU.
    monkeypatch.setitem(ENVIRONMENT, "CUDA_VISIBLE_DEVICES", "0,1")
    study = copy_of(finished, tmp_path)
    jobs = ["finetuning/ud-complete/seed0", "finetuning/xgf-flipped/seed0"]
    study.snakemake("--cores", "2", "--resources", "gpu=2", "--force", *(f"results/{job}.csv" for job in jobs))
    logs = [study.folder / "results" / "logs" / job.replace("finetuning", "finetune") for job in jobs]
    starts = [json.loads(log.with_suffix(".cost.jsonl").read_text().splitlines()[-2]) for log in logs]
    assert sorted(start["devices"] for start in starts) == [["0"], ["1"]]


def test_the_classifier_is_packed_and_reads_a_new_frame(finished: Study, tmp_path: Path):
    study = copy_of(finished, tmp_path)
    assert study.planned("classifier") == {"pack_classifier": 1}
    study.snakemake("--cores", "2", "classifier")
    with (study.folder / "data_manifest.csv").open() as file:
        frame = study.folder / "data" / "phantoms" / next(csv.DictReader(file))["path"]
    subprocess.run(
        [
            sys.executable, "-m", "workflow_scripts.classifier.predict", "--model", study.folder / "results" / "classifier",
            "--profile", "esaote_mylab", "--output", tmp_path / "predictions.csv", frame,
        ],
        cwd=REPOSITORY, env=ENVIRONMENT, check=True,
    )  # fmt: skip
    predictions = read_csv(tmp_path / "predictions.csv")
    assert len(predictions) == 2
    assert predictions["probability"].between(0, 1).all()
    assert set(predictions["origin"]) == {"PHANTOM"}


# A workflow that has this one as a module, from a repository elsewhere: no file of it lies where Snakemake was started.
FOREIGN = """
configfile: "config.yaml"

module tusflow:
    snakefile: github("owner/tusflow", path="workflow/Snakefile", tag="v1")
    config: config

use rule * from tusflow as tusflow_*

onstart:
    tusflow.onstart()

onsuccess:
    tusflow.onsuccess()

rule all:
    default_target: True
    input: rules.tusflow_all.input
"""


def test_a_module_killed_in_the_middle_and_continued_gives_the_same_table(
    finished: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, value in bare_copy(tmp_path)[1].items():
        monkeypatch.setitem(ENVIRONMENT, name, value)
    foreign = tmp_path / "foreign" / "Snakefile"
    foreign.parent.mkdir()
    foreign.write_text(FOREIGN)
    study = replace(smallest_study(tmp_path / "study"), snakefile=foreign)
    table = "results/tables/generation.csv"
    process = subprocess.Popen(
        study.command("--cores", "2", table), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    # Killed with a diffusion model half trained: its checkpoint is written and the model is not.
    work = study.folder / "results" / "work" / "train_diffusion" / "run"
    wait_for(lambda: list(work.glob("*.pt")), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (study.folder / "results" / "diffusion" / "trained").exists()
    output = study.snakemake("--cores", "2", table)
    assert "rule tusflow_make_generation_table" in output
    assert list((study.folder / ".snakemake" / "tusflow").glob("*/workflow_scripts"))
    assert (study.folder / table).read_bytes() == (finished.folder / table).read_bytes()


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["deployed", "module"])
def test_from_elsewhere_the_smallest_study_runs_to_its_end(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As snakedeploy deploys it, and as a module whose rules are renamed; neither has a file of the repository beside it."""
    bare, variables = bare_copy(tmp_path)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
        monkeypatch.setitem(ENVIRONMENT, name, value)
    folder = tmp_path / "study"
    snakefile = folder / "workflow" / "Snakefile"
    if kind == "deployed":
        from snakedeploy.deploy import WorkflowDeployer

        with WorkflowDeployer(f"file://{bare}", folder, tag="v1") as deployer:
            deployer.deploy("tusflow")
        with snakefile.open("a") as file:
            file.write("\nonstart:\n    tusflow.onstart()\n\nonsuccess:\n    tusflow.onsuccess()\n")
    else:
        snakefile.parent.mkdir(parents=True)
        snakefile.write_text(FOREIGN.replace('"config.yaml"', f'"{REPOSITORY}/config.yaml"'))
    study = replace(smallest_study(folder), snakefile=snakefile)
    study.snakemake("--cores", "2")
    results = folder / "results"
    assert "PHANTOM" in (results / "report.html").read_text(encoding="utf-8")
    assert (results / "index.html").is_file()
    assert (results / "provenance" / "ro-crate-metadata.json").is_file()
    if golden_file().is_file():
        assert not differences(read_csv(golden_file()), numbers(results / "tables"))


@pytest.mark.nightly
def test_per_fold_holdout_trains_one_generator_and_encoder_per_fold(tmp_path: Path):
    study = smallest_study(tmp_path / "study").change(
        "per_fold",
        {
            "holdout": "per_fold",
            "tables": {
                "table1": {"rows": []},
                "table2": {"rows": [{"name": "UD", "init": "ud", "labels": "complete"}]},
                "table3": {"rows": [{"name": "Xgf", "init": "xgf", "labels": "complete"}]},
                "table4": {"rows": []},
            },
            "figures": {"explained": ""},
            # A cohort has fewer real views.
            "manifold": {"recipe": {"filter_k": 12}},
            # Of the six patients of a cohort, two are held out.
            "diffusion": {"holdout_patients": 0.34},
        },
    )
    study.snakemake("--cores", "2", "tables")
    results = study.folder / "results"
    assert len(list((results / "pretraining" / "ud").glob("seed0_fold*/backbone.safetensors"))) == 2
    assert len(list((results / "diffusion").glob("seed0_fold*/model"))) == 2
    assert "test patients" in (results / "tables" / "table2.md").read_text(encoding="utf-8")


@pytest.mark.nightly
def test_synthetic_views_of_each_folds_own_generator_are_learnt_and_real_ones_tested(tmp_path: Path):
    study = synthetic_study(tmp_path / "study")
    results = study.folder / "results"
    table5, figure = results / "tables" / "table5.md", results / "figures" / "synthetic.png"
    study.snakemake("--cores", "2", *(str(file.relative_to(study.folder)) for file in (table5, figure)))
    table = read_csv(results / "tables" / "table5.csv")
    assert list(table["labels of synthetic views"]) == ["–", "asked", "asked", "relabelled", "shuffled"]
    assert table["auroc_mean"].between(0, 100).all()
    # Tested on the same real views, whatever was learnt.
    assert table["views"].nunique() == 1
    assert "from a generator of its own" in table5.read_text(encoding="utf-8")
    assert figure.stat().st_size > 10_000
    assert len(list((results / "views").glob("seed0_fold*/synthetic.npy"))) == 2


def synthetic_study(folder: Path) -> Study:
    """The smallest study with a generator for each fold, and rows that are fine-tuned on its views."""
    empty: dict = {"rows": []}
    made_of = {
        "half": {"real_percent": 50, "synthetic_percent": 50},
        "alone": {"real_percent": 0, "synthetic_percent": 100},
        "added": {"synthetic_percent": 100, "labels": "relabelled"},
        "control": {"real_percent": 0, "synthetic_percent": 100, "labels": "shuffled"},
    }
    row = {"init": "scratch", "labels": "complete"}
    return smallest_study(folder).change("synthetic", {
        "holdout": "per_fold",
        "diffusion": {"class_conditional": True, "holdout_patients": 0.34},
        "synthesis": {"images": 64},
        "manifold": {"recipe": {"filter_k": 12}},
        "finetuning": {"training_sets": made_of},
        "figures": {"explained": ""},
        "tables": {
            **{f"table{number}": empty for number in (1, 2, 3, 4)}, "table1_protocols": empty,
            "table5": {"rows": [{"name": "real", **row}, *({"name": k, "training_set": k, **row} for k in made_of)]},
        },
    })  # fmt: skip


@pytest.mark.nightly
def test_another_scanner_external_patients_and_both_views_reach_the_first_page(tmp_path: Path):
    study = elsewhere_study(tmp_path)
    study.snakemake("--cores", "2")
    results = study.folder / "results"
    index = read_csv(results / "views" / "labelled.csv")
    folds = read_csv(results / "folds" / "seed0.csv").merge(index[["view_id", "scanner"]], on="view_id")
    assert set(zip(folds["scanner"], folds["fold"], strict=True)) == {("A", 0), ("B", 1)}
    assert {"A", "B"} <= set(read_csv(results / "tables" / "groups.csv")["group"])
    outside = read_csv(results / "tables" / "external" / "elsewhere" / "table2.csv")
    assert list(outside["patients"]) == [8] * 5
    assert outside["auroc"].between(0, 100).all()
    assert "that no stage of this study has seen" in (results / "tables/external/elsewhere/table2.md").read_text()
    table = read_csv(results / "tables" / "table2.csv").set_index("name")
    assert table.loc[["both views", "paired", "paired, both views"], "accuracy_mean"].between(0, 100).all()
    fused = read_csv(results / "finetuning" / "ud-flipped-mean_logits" / "seed0.csv").merge(
        index[["view_id", "side"]], on="view_id"
    )
    assert (fused.groupby(["patient_id", "side"])["probability"].nunique() == 1).all()
    for picture in ("operating_points", "external/elsewhere/table2", "external/elsewhere/table2_calibration"):
        assert (results / "figures" / f"{picture}.png").is_file()
    front = (results / "index.html").read_text(encoding="utf-8")
    assert all((results / link).is_file() for link in re.findall(r'href="([^"]+)"', front))
    assert "tables/external/elsewhere/table2.html" in front


def elsewhere_study(folder: Path) -> Study:
    """The smallest study of two scanners, one left out in turn, with eight patients of elsewhere and rows of both views."""
    study, outside = smallest_study(folder / "study"), phantom_study(
        folder / "outside", [], "--labelled-patients", "8", "--unlabelled-testicles", "0", "--thyroids", "0",
        "--positive-share", "0.5", "--wrong-labels", "0", "--seed", "2",
    )  # fmt: skip
    frames = read_csv(study.folder / "data_manifest.csv").fillna("")
    # Every other patient of each class, so that both scanners have both.
    sick = frames.groupby("patient_id")["label"].transform(lambda labels: (labels == "inhomogeneous").any())
    order = frames.assign(sick=sick).groupby("sick")["patient_id"].transform(lambda ids: ids.rank(method="dense"))
    write_csv(frames.assign(scanner=(order % 2).map({0: "A", 1: "B"})), study.folder / "data_manifest.csv")
    others = read_csv(outside.folder / "data_manifest.csv").fillna("")
    ids = {column: "E" + others[column] for column in ("image_id", "patient_id")}
    write_csv(others.assign(**ids, scanner="C"), study.folder / "external.csv")
    rows = [
        {"init": "scratch", "paper": "scratch"}, {"init": "ud", "paper": "ud"},
        {"name": "both views", "init": "ud", "variant": "mean_logits"},
        {"name": "paired", "init": "ud", "variant": "paired"},
        {"name": "paired, both views", "init": "ud", "variant": "paired_mean_logits"},
    ]  # fmt: skip
    empty: dict = {"rows": []}
    return study.change("elsewhere", {
        "split_by": "scanner",
        "external": {"elsewhere": {"manifest": "external.csv", "root": "data/elsewhere", "title": "Hospital B"}},
        "tables": {"table1": empty, "table1_protocols": empty, "table4": empty, "table2": {"rows": rows},
                   "operating_points": {"prevalence": 0.2}},
    })  # fmt: skip


def wait_for(condition, process: subprocess.Popen, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "the run never came that far"
        time.sleep(0.05)


def copy_of(study: Study, folder: Path) -> Study:
    """A copy with the same time stamps and Snakemake's records."""
    shutil.copytree(study.folder, folder / "copy", symlinks=True)
    return Study(folder / "copy", study.changes)
