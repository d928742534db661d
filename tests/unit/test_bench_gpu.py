"""The benchmark of GPUs, tried out small on a CPU; its numbers reach the page and the cost plan."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.measure import RESULTS
from benchmarks.report import page
from workflow_scripts.tools import plan


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    """All but embedding, whose peer takes seconds to make: `make bench` runs it."""
    return gpu.main(
        ["--tiny", "--minutes", "0", "--tasks", "pretraining", "diffusion training", "sampling", "fine-tuning"]
    )


def test_every_task_measures_ours_and_a_peer(rows: list[dict]) -> None:
    assert [row["method"] == "ours" for row in rows] == [True, False] * 4
    for row in rows:
        assert 0 < row["images_per_s_min"] <= row["images_per_s"] <= row["images_per_s_max"]
        assert row["share_of_peak"] > 0
        assert row["repeats"] >= 1
    for row in rows[::2]:
        kinds = row["seconds_by_kind"]
        assert kinds["convolution"] > 0
        assert set(kinds) == {*gpu.KINDS, "rest", "idle"}


def test_the_page_shows_what_was_measured(rows: list[dict], tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(RESULTS, results)
    (results / "gpu.json").unlink(missing_ok=True)
    assert "Not measured yet, for lack of a GPU" in page(results)
    record = {"device": "NVIDIA L40S", "date": "2026-01-02", "rows": rows}
    (results / "gpu.json").write_text(json.dumps(record))
    text = page(results)
    ours, peer = rows[2:4]
    assert "`make bench-gpu` on one NVIDIA L40S (2026-01-02)" in text
    assert f"| diffusion training, float32 | {ours['images_per_s']:.1f} images/s ±" in text
    assert f"| plain Diffusers {peer['images_per_s']:.1f} |" in text


def test_the_plan_reckons_with_what_was_measured(
    rows: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "throughputs.json"
    table.write_text('{"NVIDIA L40S": {"embed": 3.5}}')
    gpu.write_plan(rows, "NVIDIA L40S", table)
    written = json.loads(table.read_text())["NVIDIA L40S"]
    assert written["embed"] == 3.5
    assert set(written) == {"embed", "pretrain", "train_diffusion", "sample_shard", "finetune"}
    monkeypatch.setattr(plan, "THROUGHPUTS", table)
    table.write_text('{"NVIDIA L40S": {"pretrain": 10.0}}')
    work = plan.Work("pretrain", {"ud/pretrain": 36_000.0}, 0.0)
    resources = {"pretrain": {"gpu": 1, "gpu_model": "l40s"}}
    (line,) = plan.lines([work], resources, [], {})
    assert line.source == "benchmark on NVIDIA L40S"
    assert line.gpu_hours[1] == pytest.approx(1.0 + plan.SECONDS_PER_START / 3600)
    (other,) = plan.lines([work], {"pretrain": {"gpu": 1, "gpu_model": "rtx2080ti"}}, [], {})
    assert other.source == "guess"


def test_without_a_gpu_it_says_what_works(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "--tiny" in capsys.readouterr().err
