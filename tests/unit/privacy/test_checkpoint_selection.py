"""Snapshots of the generator's training: keeping, measuring and choosing them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from tests.unit.diffusion.test_training import TINY, WEIGHTS, command
from workflow_scripts.core.errors import UserError
from workflow_scripts.diffusion import train_diffusion
from workflow_scripts.diffusion.process import GaussianProcess, schedule_betas
from workflow_scripts.diffusion.snapshots import denoising_loss
from workflow_scripts.diffusion.unet import build_unet
from workflow_scripts.privacy import draw_selection, monitor_diffusion, select_checkpoint
from workflow_scripts.privacy.monitor_diffusion import Judge, Measures, embedded
from workflow_scripts.privacy.selection import choose, read_measures
from workflow_scripts.runtime import run as run_module
from workflow_scripts.runtime.cli import run
from workflow_scripts.runtime.work import Clock

MEASURES = {
    "step", "fid", "precision", "recall", "copies", "control", "excess", "excess_low", "excess_high", "held_out_loss",
    "training_loss",
}  # fmt: skip


def rows(*values: tuple[float, float, float, float]) -> list[dict[str, float]]:
    """Snapshots at steps 100, 200, …: held-out loss, excess of copies and its lower end, FID."""
    names = ("held_out_loss", "excess", "excess_low", "fid")
    return [{"step": 100.0 * (i + 1), **dict(zip(names, row, strict=True))} for i, row in enumerate(values)]


def test_best_is_the_last_that_neither_copies_nor_is_past_the_lowest_loss() -> None:
    table = rows((0.5, 0, -0.1, 90), (0.3, 0.02, -0.05, 60), (0.2, 0.3, 0.2, 50), (0.4, 0, -0.1, 40))
    assert choose(table, "last") == (400, "the last one")
    step, reason = choose(table[::-1], "best")
    assert step == 200
    assert "lowest held-out loss (step 300)" in reason


def test_least_copying_prefers_the_better_images_among_equals() -> None:
    table = rows((0.5, 0.1, -0.1, 90), (0.3, 0.1, 0.05, 60), (0.2, 0.3, 0.2, 50))
    assert choose(table, "least_copying")[0] == 200


def test_best_falls_back_to_the_least_copying() -> None:
    step, reason = choose(rows((0.3, 0.4, 0.3, 60), (0.2, 0.2, 0.1, 50), (0.4, 0, -0.1, 40)), "best")
    assert step == 300
    assert "copies more than chance" in reason


def test_untrained_networks_denoise_nothing() -> None:
    unet = build_unet(8, 32, [1, 1], 1, [4], 2, 0.0).eval()  # predicts zero
    views = np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8)
    process = GaussianProcess(schedule_betas("cosine", 100))
    losses = denoising_loss(unet, process, views, 2, 0)
    assert losses.shape == (5,)
    assert losses.mean() == pytest.approx(1, abs=0.1)  # the noise's own variance
    np.testing.assert_allclose(losses, denoising_loss(unet, process, views, 5, 0), rtol=1e-6)


def study_of(patients: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth random views, two per patient."""
    coarse = np.random.default_rng(0).random((2 * patients, side // 4, side // 4))
    return (255 * np.kron(coarse, np.ones((4, 4)))).astype(np.uint8), np.repeat(np.arange(patients).astype(str), 2)


def test_copies_are_seen_and_new_images_are_not() -> None:
    views, patients = study_of(60, 16)
    held_out = np.arange(len(views)) < 40
    features = views.reshape(len(views), -1).astype(np.float32)
    known, unseen = (embedded(views[rows], features[rows], patients[rows]) for rows in (~held_out, held_out))
    judge = Judge(known, unseen, Measures(3, 1, 0.05))

    def measured(images: np.ndarray) -> dict[str, float]:
        return judge.measure(images, images.reshape(len(images), -1).astype(np.float32))

    noise = np.random.default_rng(1).normal(0, 6, (40, 16, 16))
    copies = measured(np.clip(views[60:100] + noise, 0, 255).astype(np.uint8))
    assert copies["copies"] > 0.9
    assert copies["excess_low"] > 0.5
    fresh = measured(study_of(100, 16)[0][120:])
    assert fresh["copies"] < 0.2
    assert fresh["excess_low"] < 0
    assert fresh["fid"] < measured(np.zeros_like(views))["fid"]


def write_study(folder: Path) -> list[str]:
    views, patients = study_of(16, 16)
    np.save(folder / "labelled.npy", views)
    index = pd.DataFrame({"view_id": [f"v{n}" for n in range(len(views))], "image_id": "v", "patient_id": patients})
    index.assign(organ="testicle", label="homogeneous", view="full").to_csv(folder / "labelled.csv", index=False)
    pd.DataFrame({"patient_id": [str(n) for n in range(4)]}).to_csv(folder / "holdout.csv", index=False)
    return [
        *("--views", str(folder / "labelled.npy"), "--index", str(folder / "labelled.csv")),
        *("--holdout", str(folder / "holdout.csv"), "--device", "cpu"),
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with a training of four steps and three snapshots, its own weights included."""
    folder = tmp_path_factory.mktemp("trained")
    study = write_study(folder)
    words = [*study, "--output-model", str(folder / "model"), "--output-metrics", str(folder / "metrics.jsonl")]
    words += ["--work-dir", str(folder / "work"), "--snapshot-every", "1", "--origin", "PHANTOM"]
    settings = {**TINY, "steps": 3, "attention_resolutions": [8]}
    run(train_diffusion.main, train_diffusion.parser(), [*words, *command(settings)])
    return folder, study


def test_snapshots_are_the_averaged_weights_of_their_step(trained: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, study = trained
    files = sorted((folder / "model" / "snapshots").iterdir())
    assert [file.name for file in files] == ["step_0000001.safetensors", "step_0000002.safetensors"]
    words = [*study, "--output-model", str(tmp_path / "two"), "--output-metrics", str(tmp_path / "metrics.jsonl")]
    settings = {**TINY, "steps": 2, "attention_resolutions": [8]}
    run(train_diffusion.main, train_diffusion.parser(), [*words, "--work-dir", str(tmp_path / "w"), *command(settings)])
    snapshot, shorter = load_file(files[1]), load_file(tmp_path / "two" / "unet" / WEIGHTS)
    assert all(torch.equal(snapshot[name], shorter[name]) for name in shorter)
    assert not (tmp_path / "two" / "snapshots").exists()


def test_measuring_and_choosing(
    trained: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, study = trained
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), tmp_path / "backbone.safetensors")
    words = [*study, "--model", str(folder / "model")]
    words += ["--network", "encoder", "--backbone", "test_resnet", "--weights", str(tmp_path / "backbone.safetensors")]
    words += ["--images", "8", "--batch-size", "4", "--steps", "3", "--shift", "2", "--false-alarms", "0.1"]
    words += ["--work-dir", str(tmp_path / "work"), "--output-measures"]
    run(monitor_diffusion.main, monitor_diffusion.parser(), [*words, str(tmp_path / "whole.csv")])

    class OverSoon(Clock):
        asked = 0

        def is_over(self) -> bool:
            self.asked += 1
            return self.asked == 3  # in the midst of the second snapshot

    words += [str(tmp_path / "monitor.csv")]
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "Clock", OverSoon)
        with pytest.raises(SystemExit):
            run(monitor_diffusion.main, monitor_diffusion.parser(), words)
    assert "batch 3 of 6 (snapshots)" in capsys.readouterr().err
    run(monitor_diffusion.main, monitor_diffusion.parser(), words)
    assert "continuing" in capsys.readouterr().err
    assert (tmp_path / "monitor.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    measured = read_measures(tmp_path / "monitor.csv")
    assert [row["step"] for row in measured] == [1, 2, 3]
    assert set(measured[0]) == MEASURES
    assert len({row["fid"] for row in measured}) == 3
    assert not (tmp_path / "work").exists()

    # Let the second be chosen, and its weights be the model's.
    table = pd.read_csv(tmp_path / "monitor.csv").assign(excess=[0.5, 0.1, 0.5])
    table.to_csv(tmp_path / "monitor.csv", index=False)
    rule = ["--measures", str(tmp_path / "monitor.csv"), "--select", "least_copying"]
    words = ["--model", str(folder / "model"), *rule, "--output-model", str(tmp_path / "model")]
    run(select_checkpoint.main, select_checkpoint.parser(), words)
    chosen = load_file(tmp_path / "model" / "unet" / WEIGHTS)
    snapshot = load_file(folder / "model" / "snapshots" / "step_0000002.safetensors")
    assert all(torch.equal(chosen[name], snapshot[name]) for name in snapshot)
    assert not (tmp_path / "model" / "snapshots").exists()
    checkpoint = json.loads((tmp_path / "model" / "parameters.json").read_text())["checkpoint"]
    assert checkpoint["step"] == 2
    assert "those of step 2" in (tmp_path / "model" / "README.md").read_text()
    words = [*rule, "--origin", "PHANTOM", "--output-figure", str(tmp_path / "figure.png")]
    run(draw_selection.main, draw_selection.parser(), words)
    assert (tmp_path / "figure.png").stat().st_size > 10_000


@pytest.mark.parametrize("links", [True, False])
def test_the_last_weights_need_no_measures(
    trained: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    model = trained[0] / "model"
    (model / ".snakemake_timestamp").touch()

    def refuse(*_: object) -> None:
        raise OSError("no links here")

    if not links:
        monkeypatch.setattr(select_checkpoint.os, "link", refuse)
    words = ["--model", str(model), "--select", "last", "--output-model", str(tmp_path / "model")]
    run(select_checkpoint.main, select_checkpoint.parser(), words)
    left_out = {*(model / "snapshots").iterdir(), model / ".snakemake_timestamp"}
    wanted = {file.relative_to(model) for file in model.rglob("*") if file.is_file() and file not in left_out}
    assert {
        file.relative_to(tmp_path / "model") for file in (tmp_path / "model").rglob("*") if file.is_file()
    } == wanted
    for file in wanted:
        assert (tmp_path / "model" / file).read_bytes() == (model / file).read_bytes()
        assert (tmp_path / "model" / file).samefile(model / file) == links


def test_other_rules_need_measures_and_a_folder_that_is_no_model_is_kept(
    trained: tuple[Path, list[str]], tmp_path: Path
) -> None:
    words = ["--model", str(trained[0] / "model"), "--select", "best", "--output-model", str(tmp_path / "model")]
    arguments = select_checkpoint.parser().parse_args(words)
    with pytest.raises(UserError, match=r"--select best needs .*--measures"):
        select_checkpoint.main(arguments)
    (tmp_path / "model").mkdir()
    with pytest.raises(UserError, match="is not a diffusion model"):
        select_checkpoint.main(arguments)


def test_too_few_held_out_patients_are_refused(trained: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, study = trained
    (tmp_path / "holdout.csv").write_text("patient_id\n1\n")
    words = [*study, "--holdout", str(tmp_path / "holdout.csv"), "--model", str(folder / "model")]
    words += ["--output-measures", str(tmp_path / "monitor.csv"), "--network", "encoder", "--weights", "none"]
    arguments = monitor_diffusion.parser().parse_args([*words, "--work-dir", str(tmp_path / "work")])
    with pytest.raises(UserError, match=r"2 views of 1 held-out patients.*select: last"):
        monitor_diffusion.main(arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step,fid\n1,2\n2,word\n", "monitor.csv, row 2: 2, word are not all numbers"),
        ("step,fid\n1,2,3\n", "row 1: .* are not all numbers"),
        ("step,fid\n1\n", "row 1: 1, None are not all numbers"),
        ("step,fid\nnan,2\n", "row 1: nan, 2 are not all numbers"),
        ("step,fid\n", "has no rows"),
        ("step,fid\n1,2\n", "monitor.csv has no column 'excess'"),
    ],
)
def test_damaged_measures_are_told(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "monitor.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        choose(read_measures(tmp_path / "monitor.csv"), "least_copying")
