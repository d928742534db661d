"""What a study will cost and has cost: arithmetic, measured throughputs, tries that were interrupted."""

import json
import math
import os
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.shared import REPOSITORY
from workflow_scripts.core.errors import UserError
from workflow_scripts.diffusion import snapshots
from workflow_scripts.privacy import copy_encoder
from workflow_scripts.runtime.cli import run, stage_parser
from workflow_scripts.runtime.costs import Cost, read_costs
from workflow_scripts.study.experiments import experiments
from workflow_scripts.tools import plan
from workflow_scripts.tools.plan import (
    GUESS,
    THROUGHPUT,
    Networks,
    Work,
    lines,
    read_config,
    spent,
    spent_by_table,
    stages,
)

L40S = {"pretrain": {"gpu": 1, "gpu_model": "l40s"}}
NETWORKS = Networks(0.0045, 11_000_000, 0.5, 119_000_000, 0.0115, 0.00001)


@pytest.fixture(scope="module")
def config() -> dict:
    return read_config([REPOSITORY / "config.yaml"])


def cost(job: str, seconds: float, device: str = "NVIDIA L40S") -> Cost:
    return Cost(job.partition("/")[0], job, 1, True, seconds, seconds, seconds, 1024, device)


def test_the_shipped_study_has_the_jobs_that_snakemake_plans(config: dict):
    works = {work.rule: work for work in stages(config, {"labelled": 880}, NETWORKS)}
    assert len(works["pretrain"].jobs) == 13
    assert len(works["train_audit"].jobs) == 8
    assert len(works["sample_shard"].jobs) == 20
    # 5000 steps of 2 x 1024 views, forward and backward; 20 000 images of 250 steps.
    assert works["pretrain"].jobs["ud/pretrain"] == pytest.approx(5000 * 2048 * 3 * 0.0045)
    assert sum(works["sample_shard"].jobs.values()) == pytest.approx(20_000 * 250 * 0.5)
    # Two of three folds train on a view in each of 30 epochs.
    assert works["finetune"].jobs["ud-flipped/seed0"] == pytest.approx(880 * (2 * 30 * 3 + 1) * 0.0045)


def gpu_rules() -> dict[str, str]:
    """The rules that ask for a GPU, and the pattern of their logs without the suffix."""
    found = {}
    for file in (REPOSITORY / "rules").glob("*.smk"):
        for block in re.split(r"^ *(?=rule \w+:$)", file.read_text(), flags=re.MULTILINE)[1:]:
            if re.search(r"^ *gpu=1,$", block, re.MULTILINE):
                log = re.search(r'log_of\("(.+)"\)', block)
                assert log
                found[block.split(":")[0].removeprefix("rule ")] = log[1]
    return found


def test_every_rule_with_a_gpu_is_planned_and_its_jobs_are_called_as_its_logs(config: dict):
    study = {**config, "holdout": "per_fold", "classifier": {**config["classifier"], "init": "ud"}}
    study["pretraining"] = {**config["pretraining"], "seeds": 2}
    study["privacy"] = {**config["privacy"], "canaries": 20}
    study["external"] = {"hospital": {"manifest": "b.csv", "seen_without_labels": False}}
    probe = {"name": "UD, frozen", "init": "ud", "variant": "probe"}
    study["tables"] = {**config["tables"], "table2": {"rows": [*config["tables"]["table2"]["rows"], probe]}}
    works = {work.rule: work for work in stages(study, {"labelled": 880}, NETWORKS)}
    logs = gpu_rules()
    assert len(logs) > 8
    assert works.keys() == logs.keys()
    folders = {"{cohort}": r"(seed\d+_fold\d+|canaries)/", "{repeat}": r"(repeat\d+/)?"}
    for rule, work in works.items():
        pattern = re.sub(r"\{\w+\}", lambda found: folders.get(found[0], "[^/]+"), logs[rule])
        assert work.jobs
        for job in work.jobs:
            assert re.fullmatch(pattern, f"{rule}/{job}" if job else rule), (rule, job)


def test_the_profile_names_rules_and_gives_every_gpu_stage_a_gpu(config: dict):
    profile = yaml.safe_load((REPOSITORY / "slurm" / "config.yaml").read_text())
    rules = {
        name for file in (REPOSITORY / "rules").glob("*.smk") for name in re.findall(r"rule (\w+):", file.read_text())
    }
    groups = {group.partition("=")[0] for group in profile["groups"]}
    assert {*profile["set-resources"], *profile["set-threads"], *groups} <= rules
    assert {rule for rule, asked in profile["set-resources"].items() if "gpu" in asked} == gpu_rules().keys()


def test_the_copy_audits_networks_learn_from_pairs_and_embed_views_crops_and_mirror_images(config: dict):
    works = {work.rule: work for work in stages(config, {"labelled": 880}, NETWORKS)}
    steps = config["manifold"]["privacy"]["encoder_steps"]
    assert works["embed_copies"].jobs == {"embed": pytest.approx(2 * (steps * 64 * 3 + 24 * 880 + 20_000) * 0.00001)}


def test_constants_of_stages_that_need_torch_are_theirs():
    assert snapshots.LEVELS == plan.NOISE_LEVELS
    assert snapshots.STEPS_THERE + 2 == plan.SECMI_PASSES
    assert copy_encoder.BATCH == plan.COPY_BATCH
    assert len(copy_encoder.windows(100)) == plan.COPY_CROPS


def test_the_one_job_of_a_stage_is_measured(config: dict):
    work = Work("pack_classifier", {"": 1000.0}, 0.0)
    (line,) = lines([work], {"pack_classifier": {"gpu": 1, "gpu_model": "l40s"}}, [cost("pack_classifier", 3600.0)], {})
    assert line.gpu_hours[1] == pytest.approx(1.0)
    assert line.source == "1 jobs measured on NVIDIA L40S"


def test_every_labelled_view_is_denoised_from_every_noise_and_attacked_once_by_secmi(config: dict):
    works = {work.rule: work for work in stages(config, {"labelled": 880}, NETWORKS)}
    assert works["measure_denoising"].jobs == {"denoising": pytest.approx(880 * (8 * 8 + 12) * 0.5)}


def test_snapshots_are_sampled_when_a_checkpoint_is_selected(config: dict):
    works = {work.rule: work for work in stages(config, {"labelled": 880}, NETWORKS)}
    # Ten snapshots of 50 000 steps, 256 images of 50 steps from each.
    assert works["monitor_diffusion"].jobs == {"monitor": pytest.approx(10 * 256 * (50 * 0.5 + 0.0115))}
    last = {**config, "diffusion": {**config["diffusion"], "select": "last"}}
    assert "monitor_diffusion" not in {work.rule for work in stages(last, {"labelled": 880}, NETWORKS)}


def test_every_cohort_trains_its_own_generator(config: dict):
    per_fold = {work.rule: work for work in stages({**config, "holdout": "per_fold"}, {"labelled": 880}, NETWORKS)}
    assert len(per_fold["train_diffusion"].jobs) == 12
    marked = {**config, "privacy": {**config["privacy"], "canaries": 20}}
    with_canaries = {work.rule: work for work in stages(marked, {"labelled": 880}, NETWORKS)}
    assert set(with_canaries["train_diffusion"].jobs) == {"train", "canaries/train"}
    assert with_canaries["audit_canaries"].jobs == {"": pytest.approx(10 * 2048 * 50 * 0.5)}
    ready = stages({**config, "diffusion": {**config["diffusion"], "model": "m"}}, {"labelled": 880}, NETWORKS)
    assert "train_diffusion" not in {work.rule for work in ready}


def test_a_guess_says_so_and_its_range_is_wide():
    (line,) = lines([Work("pretrain", {"ud/pretrain": THROUGHPUT["l40s"] * 3600}, 0.0)], L40S, [], {})
    low, hours, high = line.gpu_hours
    assert hours == pytest.approx(1.0, rel=0.02)
    assert high / low == pytest.approx(GUESS**2, rel=0.05)
    assert line.source == "guess"


def test_jobs_that_ran_on_that_gpu_replace_the_guess():
    work = Work("pretrain", {"ud/pretrain": 1000.0, "xg/pretrain": 3000.0}, 0.0)
    measured = [cost("pretrain/ud/pretrain", 7200.0), cost("pretrain/xg/pretrain", 9.0, "NVIDIA GeForce RTX 2080 Ti")]
    (line,) = lines([work], L40S, measured, {})
    assert line.gpu_hours[1] == pytest.approx(2 + 6)
    assert line.source == "1 jobs measured on NVIDIA L40S"


def test_wall_hours_follow_the_gpus_at_hand():
    work = Work("pretrain", {f"{i}/pretrain": THROUGHPUT["l40s"] * 3600 for i in range(4)}, 0.0)
    (one,), (two,), (many,) = (lines([work], L40S, [], {"l40s": n}) for n in (1, 2, 9))
    assert one.wall_hours == pytest.approx(2 * two.wall_hours)
    assert many.wall_hours == pytest.approx(many.longest_hours)
    pair = {"pretrain": {"gpu": 2, "gpu_model": "l40s"}}
    (shared,) = lines([work], pair, [], {"l40s": 2})
    assert shared.longest_hours == pytest.approx(one.longest_hours / 2, rel=0.02)
    assert shared.wall_hours == pytest.approx(two.wall_hours, rel=0.02)


def test_without_a_known_gpu_and_without_measurements_nothing_is_claimed():
    (line,) = lines([Work("pretrain", {"ud/pretrain": 1.0}, 0.0)], {}, [], {})
    assert math.isnan(line.gpu_hours[1])
    assert line.source == "nothing"


def test_every_try_is_recorded_beside_the_log_and_added_up(tmp_path: Path):
    log = tmp_path / "logs" / "pretrain" / "ud" / "pretrain.log"

    def interrupted(_arguments: object) -> None:
        raise UserError("the time is over")

    with pytest.raises(SystemExit):
        run(interrupted, stage_parser(None), ["--log", str(log)])
    run(lambda _: None, stage_parser(None), ["--log", str(log)])
    (cost,) = read_costs(tmp_path / "logs")
    assert (cost.stage, cost.job, cost.tries, cost.finished) == ("pretrain", "pretrain/ud/pretrain", 2, True)
    rows = [json.loads(line) for line in log.with_suffix(".cost.jsonl").read_text().splitlines()]
    assert ["started" in row for row in rows] == [True, False, True, False]
    rows = rows[1::2]
    assert [row["finished"] for row in rows] == [False, True]
    assert cost.last_seconds == pytest.approx(sum(row["seconds"] for row in rows))
    assert cost.peak_mib > 10
    assert cost.gpu_seconds == 0


def test_a_killed_try_counts_up_to_the_last_line_of_its_log(tmp_path: Path):
    log = tmp_path / "logs" / "pretrain" / "ud" / "pretrain.log"
    log.parent.mkdir(parents=True)
    file = log.with_suffix(".cost.jsonl")
    file.write_text(json.dumps({"started": 1000.0, "gpus": 2, "host": "n"}) + "\n" + '{"half a li')
    log.write_text("pretrain: 12%")
    os.utime(log, (1000.0, 1090.0))
    (cost,) = read_costs(tmp_path / "logs")
    assert (cost.tries, cost.finished, cost.seconds, cost.gpu_seconds) == (1, False, 90.0, 180.0)
    file.write_text(json.dumps({"started": 1000.0, "gpus": 2, "host": "n"}) + "\n")
    run(lambda _: None, stage_parser(None), ["--log", str(log)])
    (cost,) = read_costs(tmp_path / "logs")
    assert (cost.tries, cost.finished, cost.gpu_seconds) == (2, True, 180.0)
    assert cost.seconds > 90


def test_the_energy_of_a_try_is_what_its_gpus_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = tmp_path / "nvidia-smi"
    program.write_text(
        f"#!/bin/sh\necho $* > {tmp_path}/asked\nwhile true; do echo 120.0; echo 180.0; echo [N/A]; sleep 0.01; done\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1,0")
    log = tmp_path / "logs" / "pretrain" / "ud" / "pretrain.log"
    parser = stage_parser(None)
    parser.set_defaults(device="auto", processes=2)
    run(lambda _: time.sleep(0.3), parser, ["--log", str(log)])
    assert "--id=3,1 " in (tmp_path / "asked").read_text()
    start, end = (json.loads(line) for line in log.with_suffix(".cost.jsonl").read_text().splitlines())
    assert (start["gpus"], start["devices"]) == (2, ["3", "1"])
    # Two GPUs of 150 W on average.
    assert end["watt_hours"] == pytest.approx(300 * end["seconds"] / 3600, rel=0.05)
    (cost,) = read_costs(tmp_path / "logs")
    assert cost.watt_hours == end["watt_hours"]


def test_a_forced_rerun_is_spent_but_does_not_slow_the_plan(tmp_path: Path):
    file = tmp_path / "pretrain" / "ud" / "pretrain.cost.jsonl"
    file.parent.mkdir(parents=True)
    row = {"finished": True, "gpus": 2, "device": "NVIDIA L40S", "peak_mib": 2048, "host": "n"}
    file.write_text("".join(json.dumps({**row, "seconds": seconds}) + "\n" for seconds in (100, 40)))
    (cost,) = read_costs(tmp_path)
    assert cost.seconds == 140
    assert cost.gpu_seconds == 280
    assert cost.last_seconds == 80


def test_spending_is_told_per_stage_and_per_table(config: dict):
    costs = [
        replace(cost("pretrain/ud/pretrain", 3600), watt_hours=250.0),
        cost("finetune/ud-flipped/seed0", 1800),
        cost("draw_folds/seed0", 36),
    ]
    by_stage = {row["what"]: row for row in spent(costs)}
    assert by_stage["pretrain"]["GPU h"] == pytest.approx(1.0)
    assert by_stage["all"]["kWh"] == 0.25
    assert by_stage["finetune"]["kWh"] is None
    assert by_stage["all"]["hours"] == pytest.approx(1.51)
    by_table = {row["what"]: row for row in spent_by_table(costs, config)}
    assert by_table["table2"]["hours"] == pytest.approx(1.5)
    assert "table1" not in by_table


@pytest.mark.parametrize("study", sorted((REPOSITORY / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_study_is_valid_over_the_config(study: Path):
    below = [study.with_stem(study.stem.removesuffix("_quick"))] if study.stem.endswith("_quick") else []
    config = read_config([REPOSITORY / "config.yaml", *below, study])
    assert experiments(config)
