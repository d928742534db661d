"""What goes wrong on clusters: the run ends with the same table, or says why it cannot."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.cluster.conftest import PACE, TABLE, Run, profile_with
from tests.cluster.slurm import Cluster, wait_until
from tests.workflow.study import Study
from workflow_scripts.core.files import read_json

L40S = "l40s-a"


def quick(profile: dict) -> None:
    """The shipped profile on one thread and one GPU, giving up early."""
    profile["set-resources"]["pretrain"]["gpu"] = 1
    profile["retries"] = 5
    profile["set-threads"] = dict.fromkeys(profile["set-threads"], 1)


def progress(study: Study, work: str = "pretrain/ud/run") -> int:
    """How far a training's last checkpoint is."""
    state = study.folder / "results" / "work" / work / "state.json"
    return read_json(state)["progress"] if state.is_file() else 0


def training(study: Study, stage: str = "pretraining.pretrain") -> psutil.Process:
    """The process that trains in a study's folder."""
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = process.info["cmdline"] or []
        if (
            f"workflow_scripts.{stage}" in words
            and words[0].startswith("python")
            and process.info["cwd"] == str(study.folder)
        ):
            return process
    raise LookupError(stage)


def training_again(snakemake: Run, cluster: Cluster, study: Study, but: str = "") -> str:
    """The job that trains, once it has come further than it was when it started; any but the given one."""
    snakemake.wait(lambda: cluster.running("pretrain") not in ("", but), "the training runs")
    reached = progress(study)
    snakemake.wait(lambda: progress(study) > reached, "the training gets further")
    return cluster.running("pretrain")


def test_whoever_ends_the_training_the_table_stays_as_it_was(
    study: Study, undisturbed: bytes, cluster: Cluster, run: Callable[..., Run], tmp_path: Path
):
    command = [*profile_with(tmp_path / "profile", quick), *PACE, TABLE]
    snakemake = run(study, *command)
    snakemake.wait(lambda: progress(study) > 0, "the training's first checkpoint")

    # A lost head node: the same command continues.
    orphan = cluster.running("pretrain")
    snakemake.kill()
    reached = progress(study)
    snakemake = run(study, *command)
    first = training_again(snakemake, cluster, study, but=orphan)
    assert cluster.state(orphan) == "CANCELLED"
    log = (study.folder / "results/logs/pretrain/ud/pretrain.log").read_text()
    continued = re.search(r"continuing \S+ from (\d+)", log)
    assert continued
    assert int(continued[1]) >= reached

    cluster.ask("scontrol", "requeue", first)
    cluster.release(first)
    assert training_again(snakemake, cluster, study) == first

    cluster.ask("scancel", first)
    second = training_again(snakemake, cluster, study, but=first)
    # SLURM 22.05 itself falls over when a job with GPUs is queued again after its node was lost.
    cluster.ask("scontrol", "update", f"JobId={second}", "Requeue=0")
    cluster.kill_node(L40S)
    wait_until(lambda: cluster.state(second) == "NODE_FAIL", "SLURM misses the node", 120)
    cluster.start_node(L40S)
    output = snakemake.finish()
    assert f"cancelling 1 SLURM jobs of a Snakemake that was killed: {orphan}" in output
    assert progress(study) == 0  # closed
    assert (study.folder / TABLE).read_bytes() == undisturbed
    # The requeued job kept its number.
    assert next(job["Restarts"] for job in cluster.jobs("pretrain") if job["JobId"] == first) == "1"


@pytest.mark.nightly
def test_too_little_time_and_memory_cost_attempts_and_not_the_table(
    study: Study, undisturbed: bytes, cluster: Cluster, run: Callable[..., Run], tmp_path: Path
):
    def poor(profile: dict) -> None:
        quick(profile)
        profile["set-resources"]["pretrain"]["runtime"] = 1
        profile["set-resources"]["finetune"]["mem_mb"] = "450 * min(attempt, 3)"

    snakemake = run(study, *profile_with(tmp_path / "profile", poor), *PACE, TABLE)
    # A slow file system: the training stands still until its own clock is past, and then leaves by itself.
    snakemake.wait(lambda: progress(study) > 0, "the training's first checkpoint")
    first, stage = cluster.running("pretrain"), training(study)
    stage.suspend()
    wait_until(lambda: stage.create_time() + 52 < time.time(), "the training's own clock is past", 60)
    stage.resume()
    snakemake.wait(lambda: cluster.state(first) == "FAILED", "the training ends itself")
    reached = progress(study)
    # It never wakes up: SLURM ends it.
    snakemake.wait(lambda: cluster.running("pretrain") and progress(study) > reached, "the second try's progress")
    second, stage = cluster.running("pretrain"), training(study)
    stage.suspend()
    snakemake.wait(lambda: cluster.state(second) == "TIMEOUT", "SLURM's time limit", 300)
    output = snakemake.finish()
    assert "SLURM status is: 'TIMEOUT'" in output
    asked = [(int(job["MinMemoryNode"].removesuffix("M")), job["JobState"]) for job in cluster.jobs("finetune")]
    asked = asked[max(i for i, (memory, _) in enumerate(asked) if memory == 450) :]
    assert asked[0] in {(450, "FAILED"), (450, "OUT_OF_MEMORY")}
    assert asked[-1][0] in (900, 1350)
    assert asked[-1][1] == "COMPLETED"
    assert (study.folder / TABLE).read_bytes() == undisturbed
