"""Dry runs: the shipped config, a study of paper size, mistakes that stop a run before it starts."""

import ast
import csv
import importlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.shared import REPOSITORY, stages
from tests.workflow.study import ENVIRONMENT, SNAKEMAKE, Study, bare_copy, job_counts
from workflow_scripts.runtime.code_version import reached_modules

HEADER = ["image_id", "path", "patient_id", "organ", "label", "device", "side", "truth"]


def test_shipped_config_plans_every_stage_in_a_fresh_clone(tmp_path: Path):
    study = Study(tmp_path, [])
    (tmp_path / "data_manifest.csv").write_bytes((REPOSITORY / "data_manifest.csv").read_bytes())
    planned = study.planned()
    assert planned["fetch_weights"] == 3  # ImageNet, USCL, Inception
    assert planned["train_audit"] == 2 * 4
    assert planned["pretrain"] == 13
    assert planned["sample_shard"] == 20
    assert planned["make_table"] == 5
    assert planned["make_report"] == 1


def test_a_study_of_paper_size_is_planned_with_few_submissions(tmp_path: Path):
    with (tmp_path / "data_manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for patient in range(220):
            for side in ("left", "right"):
                name = f"P{patient:03}_{side}"
                label = "inhomogeneous" if patient % 5 == 0 else "homogeneous"
                row = [name, f"{name}.bmp", f"P{patient:03}", "testicle", label, "esaote_mylab", side, label]
                writer.writerow(row)
        for i in range(25_790):
            organ = "testicle" if i < 1664 else "thyroid"
            writer.writerow([f"U{i:05}", f"u/{i}.bmp", f"Q{i:05}", organ, "", "esaote_mylab", "", "homogeneous"])
    planned = Study(tmp_path, []).planned()
    # Of these, what a cluster is asked for: the others take seconds and run where Snakemake does.
    assert sum(planned.values()) <= 244
    submitted = ("crop_views", "train_audit", "pretrain", "train_diffusion", "sample_shard", "embed", "finetune")
    assert sum(planned[rule] for rule in submitted) <= 165


def test_per_fold_holdout_plans_one_generator_per_seed_and_fold(tmp_path: Path):
    (tmp_path / "data_manifest.csv").write_bytes((REPOSITORY / "data_manifest.csv").read_bytes())
    planned = Study(tmp_path, []).change("holdout", {"holdout": "per_fold"}).planned()
    assert "make_reading_page" not in planned
    assert planned["train_diffusion"] == 4 * 3
    assert planned["pretrain"] == 13 * 4 * 3


def test_canaries_add_a_generator_that_nothing_else_uses(tmp_path: Path):
    (tmp_path / "data_manifest.csv").write_bytes((REPOSITORY / "data_manifest.csv").read_bytes())
    planned = Study(tmp_path, []).change("canaries", {"privacy": {"canaries": 20}}).planned()
    twice = ("hold_out_patients", "train_diffusion", "monitor_diffusion")
    once = ("plant_canaries", "audit_canaries", "select_checkpoint", "embed", "audit_privacy", "pack_release")
    assert {rule: planned[rule] for rule in (*twice, *once)} == {**dict.fromkeys(twice, 2), **dict.fromkeys(once, 1)}


def test_repeated_pretrainings_are_dealt_to_the_seeds_of_fine_tuning(tmp_path: Path):
    (tmp_path / "data_manifest.csv").write_bytes((REPOSITORY / "data_manifest.csv").read_bytes())
    study = Study(tmp_path, []).change("seeds", {"pretraining": {"seeds": 3}, "figures": {"learning_curve": "ud"}})
    planned = study.snakemake("--dry-run")
    jobs = job_counts(planned)
    assert jobs["pretrain"] == 13 * 3
    assert jobs["draw_learning_curve"] == 1
    for seed, folder in enumerate(("", "repeat1/", "repeat2/", "")):
        job = planned.partition(f"output: results/finetuning/ud-flipped/seed{seed}.csv")[0].rpartition("input:")[2]
        assert f"results/pretraining/ud/{folder}backbone.safetensors" in job


def test_a_published_set_takes_the_generators_place(tmp_path: Path):
    (tmp_path / "data_manifest.csv").write_bytes((REPOSITORY / "data_manifest.csv").read_bytes())
    (tmp_path / "published").mkdir()
    changes = {
        "synthesis": {"source": "folder", "folder": "published"},
        "diffusion": {"holdout_patients": 0, "select": "last"},
        "manifold": {"recipe": {"filter_rule": "neighbours"}},
    }
    planned = Study(tmp_path, []).change("published", changes).planned()
    assert planned["import_synthetic"] == 1
    assert planned["filter_manifold"] == 1
    absent = {
        "train_diffusion",
        "sample_shard",
        "join_shards",
        "select_checkpoint",
        "measure_denoising",
        "find_text",
        "pack_release",
        "make_reading_page",
    }
    assert not absent & set(planned)


def test_mistakes_in_config_and_manifest_stop_a_dry_run_with_their_lines(tmp_path: Path):
    lines = (REPOSITORY / "data_manifest.csv").read_text().splitlines()
    (tmp_path / "data_manifest.csv").write_text("\n".join([*lines, lines[-1]]) + "\n")
    study = Study(tmp_path, [])
    output = study.snakemake("--dry-run", check=False)
    assert f"line {len(lines) + 1}, column image_id" in output
    assert "Traceback" not in output
    output = study.change("typo", {"finetuning": {"recipe": {"epoch": 3}}}).snakemake("--dry-run", check=False)
    assert "typo.yaml line 3, finetuning.recipe.epoch: unknown key 'epoch'" in output
    (tmp_path / "config.yaml").write_text("__use_yte__: true\nx: ?open('pwned', 'w').close()\n")
    output = study.snakemake("--dry-run", check=False)
    assert "config.yaml is a YTE template" in output
    assert "Traceback" not in output
    assert not (tmp_path / "pwned").exists()


# Four patients are too few to hold some out.
FILES = {
    "data": {"source": "files"}, "folds": 2, "diffusion": {"holdout_patients": 0, "select": "last"},
    "manifold": {"recipe": {"filter_rule": "neighbours"}}, "release": {"without_audit": True},
}  # fmt: skip


def test_image_ids_that_contain_patient_ids_are_warned_about_once_and_not_with_a_key(tmp_path: Path):
    rows = [HEADER]
    for patient, label in zip(("P001", "P002", "P003", "P004"), ("homogeneous", "inhomogeneous") * 2, strict=True):
        rows.append([f"{patient}_left", f"{patient}.png", patient, "testicle", label, "esaote_mylab", "left", ""])
    rows += [[f"U_{organ}", f"{organ}.png", "", organ, "", "esaote_mylab", "", ""] for organ in ("testicle", "thyroid")]
    with (tmp_path / "data_manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    study = Study(tmp_path, []).change("files", FILES)
    output = study.snakemake("--dry-run", "crop")
    assert output.count("warning: 4 image ids contain their patient id (for example P001_left)") == 1
    keyed = study.change("key", {"data": {"patient_key": "key"}})
    assert "the key file key (data.patient_key) does not exist" in keyed.snakemake("--dry-run", "crop", check=False)
    (tmp_path / "key").write_text("a secret of sixteen bytes or more")
    assert "image ids contain" not in keyed.snakemake("--dry-run", "crop")


def test_every_stage_that_reads_the_manifest_gets_the_key(tmp_path: Path):
    (tmp_path / "data_manifest.csv").write_bytes((REPOSITORY / "data_manifest.csv").read_bytes())
    (tmp_path / "key").write_text("a secret of sixteen bytes or more")
    study = Study(tmp_path, []).change("key", {"data": {"patient_key": "key"}})
    output = study.snakemake("--dry-run", "--printshellcmds", "all", "results/audit/scores.csv")
    reading = [words for words in commands(output) if any(word.startswith("--manifest=") for word in words)]
    assert {words[3].removeprefix("workflow_scripts.") for words in reading} == {
        "data.draw_phantoms", "data.crop_views", "data.draw_frames", "audit.score_audit", "audit.draw_votes",
    }  # fmt: skip
    assert all("--patient-key=key" in words for words in reading)
    assert "image ids contain" not in output  # phantoms are nobody's


def test_missing_weights_stop_a_run_before_its_first_job(tmp_path: Path):
    (tmp_path / "data_manifest.csv").write_bytes((REPOSITORY / "data_manifest.csv").read_bytes())
    nowhere = {"initialisations": {"imagenet": {"url": "https://127.0.0.1:9/resnet18-f37072fd.pth"}}}
    study = Study(tmp_path, []).change("offline", nowhere)
    output = study.snakemake("--cores", "1", "results/finetuning/imagenet-complete/seed0.csv", check=False)
    assert "weights/resnet18-f37072fd.pth is missing and cannot be fetched" in output
    assert "table1 row 'complete'" in output
    _, found, listed = output.partition("networks that this run needs are missing:")
    assert found
    assert "uscl" not in listed
    assert not (tmp_path / "results").exists()


# Those that import it themselves too.
LOADS_TORCH = ("torch", "torchvision", "timm", "diffusers", "cleanfid", "pytorch_grad_cam")


def imports_torch(rule_stage: str) -> bool:
    """Whether a stage's code, at any depth, imports torch."""
    for module in reached_modules(rule_stage):
        file = REPOSITORY.joinpath(*module.split(".")).with_suffix(".py")
        if not file.exists():
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] in LOADS_TORCH for name in names):
                return True
    return False


# Stages that import torch, at any depth; no other may.
TORCH_STAGES = {
    "audit.train_audit", "pretraining.pretrain", "diffusion.train_diffusion", "diffusion.sample_shard", "synthesis.embed",
    "finetuning.finetune", "finetuning.explain", "privacy.monitor_diffusion", "privacy.measure_denoising",
    "privacy.embed_copies", "diffusion.import_guided_diffusion", "classifier.pack_classifier", "classifier.predict",
    "privacy.audit_canaries", "tools.plan", "tools.write_provenance", "finetuning.probe", "finetuning.predict_external",
    "audit.find_shortcuts",
}  # fmt: skip
TORCH_RULES = {stage.rpartition(".")[2] for stage in TORCH_STAGES} - {"pack_classifier"}


def torch_processes(planned: dict[str, int]) -> int:
    return sum(count for rule, count in planned.items() if rule in TORCH_RULES)


@pytest.mark.parametrize("stage", stages())
def test_only_the_stages_that_need_torch_reach_it(stage: str):
    assert imports_torch(stage) == (stage in TORCH_STAGES)


def test_the_smallest_study_starts_few_processes_that_import_torch(fresh: Study):
    assert torch_processes(fresh.planned()) <= 16


def test_the_demo_starts_few_processes_that_import_torch(tmp_path: Path):
    (tmp_path / "data_manifest.csv").write_bytes((REPOSITORY / "data_manifest.csv").read_bytes())
    assert torch_processes(Study(tmp_path, [REPOSITORY / "studies" / "demo.yaml"]).planned()) <= 27


def test_snakemake_runs_from_the_repository_without_options(tmp_path: Path):
    done = subprocess.run(
        [SNAKEMAKE, "--dry-run", "--quiet"], cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def commands(printed: str) -> list[list[str]]:
    """The words of every command that `snakemake --dry-run --printshellcmds` printed."""
    return [
        shlex.split(line)
        for line in re.findall(r"^(?:Shell command: |    )(exec python -m .*)$", printed, re.MULTILINE)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {}, {"holdout": "per_fold"},
        {"diffusion": {"select": "best", "class_conditional": True}, "privacy": {"canaries": 2},
         "external": {"elsewhere": {"manifest": "external.csv"}}, "figures": {"learning_curve": "ud"},
         "tables": {"table3": {"rows": [
             {"init": "ud"}, {"name": "UD, both views", "init": "ud", "variant": "mean_logits"},
             {"init": "ud", "variant": "probe"},
         ]}, "table5": {"rows": [{"init": "ud"}, {"name": "added", "init": "ud", "training_set": "added"}]}},
         "finetuning": {"training_sets": {"added": {"synthetic_percent": 100, "labels": "relabelled"}}}},
    ],
    ids=str,
)  # fmt: skip
def test_every_printed_command_is_one_that_its_stage_takes(tmp_path: Path, changes: dict):
    """What a rule names is a flag of its stage: each printed line runs by hand."""
    header, *frames = (REPOSITORY / "data_manifest.csv").read_text().splitlines()
    of_two_centres = [f"{header},centre", *(f"{frame},{'AB'[i % 2]}" for i, frame in enumerate(frames))]
    (tmp_path / "data_manifest.csv").write_text("\n".join(of_two_centres))
    (tmp_path / "external.csv").write_text(
        "image_id,path,patient_id,organ,label,device,side,truth\n"
        "E1,testicle/E1.png,E1,testicle,homogeneous,esaote_mylab,left,homogeneous\n"
    )
    study = Study(tmp_path, [REPOSITORY / "studies" / "demo.yaml"]).change("more", changes)
    found = commands(study.snakemake("--dry-run", "--printshellcmds", "all", "classifier"))
    seen = set()
    for _exec, _python, _m, module, *words in found:
        parser = importlib.import_module(module).parser()
        arguments = parser.parse_args(words)
        assert arguments.code_version
        assert arguments.log
        seen.add(module.removeprefix("workflow_scripts."))
    tools = {stage for stage in stages() if stage.startswith("tools.")}
    other = {"data.fetch_weights", "data.make_phantom_manifest", "audit.measure_agreement", "diffusion.export_png",
             "diffusion.import_guided_diffusion", "diffusion.import_synthetic", "classifier.predict"}  # fmt: skip
    if "diffusion" in changes:
        assert seen | tools | other >= set(stages())


def test_a_config_value_stays_one_word_of_a_command(tmp_path: Path):
    (tmp_path / "data_manifest.csv").write_bytes((REPOSITORY / "data_manifest.csv").read_bytes())
    title = "Views {wildcards.seed} `touch pwned` 'q' \"r\" %s --epochs 1; touch pwned | touch pwned & touch pwned"
    study = Study(tmp_path, []).change("title", {"release": {"title": title}})
    found = commands(study.snakemake("--dry-run", "--printshellcmds", "results/release/synthetic.zip"))
    assert any(f"--title={title}" in words for words in found)
    substituted = {"model": {"backbone": "x$(touch pwned)"}, "release": {"title": "Views $(touch pwned)"}}
    output = study.change("shell", substituted).snakemake("--dry-run", check=False)
    assert "model.backbone" in output
    assert "release.title: holds $" in output
    assert "Traceback" not in output
    assert not (tmp_path / "pwned").exists()


def test_a_backbone_that_cannot_take_the_views_stops_a_dry_run(tmp_path: Path):
    (tmp_path / "data_manifest.csv").write_bytes((REPOSITORY / "data_manifest.csv").read_bytes())
    one_size = {"pretraining": {"runs": {"ud": {"backbone": "efficientformer_l1"}}}}
    output = Study(tmp_path, []).change("size", one_size).snakemake("--dry-run", check=False)
    assert "backbone 'efficientformer_l1' cannot take views of 256 pixels" in output
    assert "Traceback" not in output


def test_a_deployed_workflow_makes_everything_when_nothing_is_named(tmp_path: Path):
    """workflow/Snakefile before a workflow of one rule, as a module: the default target comes with it."""
    (tmp_path / "workflow").mkdir()
    (tmp_path / "workflow" / "Snakefile").write_bytes((REPOSITORY / "workflow" / "Snakefile").read_bytes())
    deployed = tmp_path / "deployed"
    deployed.mkdir()
    (deployed / "Snakefile").write_text(
        'module tusflow:\n    snakefile: "../workflow/Snakefile"\n    config: config\n\nuse rule * from tusflow\n'
    )
    (tmp_path / "Snakefile").write_text(
        'rule made:\n    output: "made.txt"\n    shell: "touch {output}"\n\nrule all:\n    input: "made.txt"\n'
    )
    done = subprocess.run([SNAKEMAKE, "--dry-run"], cwd=deployed, env=ENVIRONMENT, capture_output=True, text=True)
    assert job_counts(done.stdout) == {"made": 1, "everything": 1}, done.stdout + done.stderr


# docs/how-to/environments.md: inputs and outputs are copied to the scratch of a compute node and back.
SCRATCH = [
    "--default-storage-provider", "fs", "--shared-fs-usage", "persistence", "software-deployment", "sources", "source-cache",
    "--local-storage-prefix",
]  # fmt: skip


def test_snakedeploy_deploys_the_workflow_of_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from snakedeploy.deploy import WorkflowDeployer

    # The deployed Snakefile names the repository at GitHub; Git takes it from here.
    bare, variables = bare_copy(tmp_path)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    deployed = tmp_path / "deployed"
    with WorkflowDeployer(f"file://{bare}", deployed, tag="v1") as deployer:
        # What the catalogue reads, and its table of parameters.
        assert deployer.get_json_schema("config")["properties"]["seeds"]
        settings = yaml.safe_load(Path(deployer.repo_clone, ".snakemake-workflow-catalog.yml").read_text())
        assert settings["usage"]["software-stack-deployment"] == {
            "conda": True, "apptainer": True, "apptainer+conda": False,
        }  # fmt: skip
        deployer.deploy("tusflow")
    assert (deployed / "config" / "README.md").is_file()
    assert (deployed / "config" / "config.yaml").read_text() == (REPOSITORY / "config.yaml").read_text()
    assert not (deployed / "config" / "config.yaml").is_symlink()
    (deployed / "data_manifest.csv").write_bytes((REPOSITORY / "data_manifest.csv").read_bytes())
    done = subprocess.run(
        [SNAKEMAKE, "--dry-run", "crop", *SCRATCH, str(tmp_path / "scratch")], cwd=deployed, capture_output=True, text=True,
        env={**ENVIRONMENT, **variables},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert job_counts(done.stdout) == {"draw_phantoms": 1, "crop_views": 3}
    assert "output: results/views/labelled.npy (send to storage)" in done.stdout
    (unpacked,) = (deployed / ".snakemake" / "tusflow").iterdir()
    assert (unpacked / "workflow_scripts" / "data" / "crop_views.py").is_file()
