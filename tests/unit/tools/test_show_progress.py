"""What a person sees of a run: Snakemake's log and the stages' logs, read while both are written."""

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.shared import REPOSITORY
from workflow_scripts.core.log import logging_to
from workflow_scripts.core.log import progress as bar
from workflow_scripts.runtime.cli import run
from workflow_scripts.runtime.cluster import note_run
from workflow_scripts.tools import show_progress
from workflow_scripts.tools.show_progress import progress, report

STATISTICS = """Provided cores: 2
Job stats:
job          count
---------  -------
crop_views       3
pretrain         2
tusflow_draw_folds   1
all              1
total            7

Select jobs to execute...
"""
BEGIN = 1_795_557_000.0


def started(rule: str, number: int, seconds: float, log: Path, wildcards: str = "") -> str:
    words = f"    wildcards: {wildcards}\n" if wildcards else ""
    return f"[{stamp(seconds)}]\nlocalrule {rule}:\n    output: x\n    log: {log}\n    jobid: {number}\n{words}    threads: 1\n"


def stamp(seconds: float) -> str:
    return time.strftime("%a %b %d %H:%M:%S %Y", time.localtime(BEGIN + seconds))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A run after 100 s: a job ended after 20 s, one trains, one waits in a queue, one failed and is tried again."""
    logs = tmp_path / "results" / "logs"
    logs.mkdir(parents=True)
    pretrain = logs / "pretrain" / "ud" / "pretrain.log"
    # A real progress bar, from the function that stages use, and the line of a start.
    with logging_to(pretrain):
        steps = bar(range(3, 20), "pretraining", "step", 20, 3)
        for _ in range(3):
            next(steps)
            time.sleep(0.01)
        steps.close()
    os.utime(pretrain, (BEGIN + 95, BEGIN + 95))
    starts = {pretrain: 30, logs / "crop_views" / "two.log": 60}
    for log, seconds in starts.items():
        log.parent.mkdir(parents=True, exist_ok=True)
        log.with_suffix(".cost.jsonl").write_text(json.dumps({"started": BEGIN + seconds, "gpus": 0}) + "\n")
    text = STATISTICS + started("crop_views", 1, 0, logs / "crop_views" / "one.log", "real_set=one")
    text += f"[{stamp(20)}]\nFinished jobid: 1 (Rule: crop_views)\n1 of 7 steps (14%) done\n"
    text += started("pretrain", 2, 25, pretrain, "run=ud, repeat=, cohort=seed0_fold1/")
    text += started("crop_views", 3, 40, logs / "crop_views" / "two.log", "real_set=two")
    text += f"[{stamp(50)}]\nError in rule crop_views:\n    message: None\n    jobid: 3\n    output: x\n"
    text += started("crop_views", 3, 55, logs / "crop_views" / "two.log", "real_set=two")
    text += started("pretrain", 4, 55, logs / "pretrain" / "xgf" / "pretrain.log", "run=xgf, repeat=, cohort=")
    (tmp_path / "snakemake.log").write_text(text)
    return tmp_path


def test_every_running_stage_has_a_line_and_the_run_an_end(study: Path):
    state = progress(study / "snakemake.log", study / "results", BEGIN + 100)
    assert (state.done, state.total) == (1, 7)
    training, cropping, queued = state.lines
    assert training.name == "pretrain ud seed0_fold1"
    assert training.text.startswith(" 25 %  5/20 pretraining  ")
    assert training.text.endswith(("step/s", "s/step"))
    assert training.left is not None
    assert cropping == show_progress.Line("crop_views two", "since 40 s", 0.0)  # one took 20 s, so it is late
    assert (queued.name, queued.text, queued.left) == ("pretrain xgf", "waits for its start", None)
    # 80 s of three jobs in 100 s; a queued training and a crop and folds are left, at the mean of what has ended (20 s).
    busy = (20 + 75 + 45 + 45) / 100
    assert state.left == pytest.approx((20 + 20 + 20 + training.left) / busy, rel=0.01)


def test_jobs_that_share_a_submission_are_seen(study: Path):
    """On a cluster, Snakemake indents the jobs of a group."""
    logs = study / "results" / "logs" / "crop_views"
    jobs = [
        started("crop_views", number, 0, logs / f"{name}.log", f"real_set={name}")
        for number, name in ((1, "a"), (2, "b"))
    ]
    group = f"[{stamp(0)}] Group job crops (jobs in lexicogr. order):\n\n" + textwrap.indent("\n".join(jobs), "    ")
    (study / "snakemake.log").write_text(f"{STATISTICS}{group}[{stamp(50)}]\nFinished jobid: 1 (Rule: crop_views)\n")
    state = progress(study / "snakemake.log", study / "results", BEGIN + 60)
    assert (state.done, [line.name for line in state.lines]) == (1, ["crop_views b"])
    failed = f"    [{stamp(55)}]\n    Error in rule crop_views:\n        message: None\n        jobid: 2\n        output: x\n"
    with (study / "snakemake.log").open("a") as file:
        file.write(failed)
    assert progress(study / "snakemake.log", study / "results", BEGIN + 60).lines == []


def test_earlier_runs_tell_how_long_a_stage_takes(study: Path):
    file = study / "results" / "logs" / "pretrain" / "old" / "pretrain.cost.jsonl"
    file.parent.mkdir(parents=True)
    ended = {"finished": True, "seconds": 500.0, "gpus": 0, "device": "CPU", "peak_mib": 1}
    file.write_text(json.dumps({"started": 1.0, "gpus": 0}) + "\n" + json.dumps(ended) + "\n")
    state = progress(study / "snakemake.log", study / "results", BEGIN + 100)
    assert state.lines[2].left == 500.0
    assert state.left is not None
    assert state.left >= 500.0


def test_the_report_names_times_and_says_what_is_not_known(study: Path):
    lines = report(progress(study / "snakemake.log", study / "results", BEGIN + 100), over=False)
    assert "1 of 7 jobs done, expected to end " in lines[0]
    assert len(lines) == 4
    (study / "snakemake.log").write_text(STATISTICS)
    lines = report(progress(study / "snakemake.log", study / "results"), over=False)
    assert lines[0].endswith("0 of 7 jobs done, expected end not yet known")
    assert report(progress(study / "none.log", study / "results"), over=True)[0].endswith(
        "0 of 0 jobs done; no run is in progress"
    )


def test_a_run_that_is_over_is_shown_once(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(study)
    with pytest.raises(SystemExit):
        run(show_progress.main, show_progress.parser(), ["--once"])
    assert "no run is noted in .snakemake" in capsys.readouterr().err
    note_run(study / ".snakemake", [str(study / "snakemake.log")])
    run(show_progress.main, show_progress.parser(), ["--once"])
    assert "pretrain xgf" in capsys.readouterr().out  # this process is the one that is noted, and it lives
    monkeypatch.setattr(show_progress, "is_dead", lambda note: True)
    run(show_progress.main, show_progress.parser(), [])
    assert capsys.readouterr().out.strip().endswith("1 of 7 jobs done; no run is in progress")


def test_a_watched_command_keeps_its_status_and_says_why_it_failed(tmp_path: Path):
    code = "import sys; print('warning: twelve ids'); print('hidden'); sys.exit(int(sys.argv[1]))"
    for status in (0, 3):
        done = subprocess.run(
            [sys.executable, "-m", "workflow_scripts.tools.show_progress", "--", sys.executable, "-c", code, str(status)],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == status
        assert done.stdout == "warning: twelve ids\n"
        assert ("hidden" in done.stderr) == (status == 3)
