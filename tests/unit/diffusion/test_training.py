"""Training of the diffusion model: draws, resume, learning, the command and its folder."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDPMPipeline
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.shared import REPOSITORY, start_run
from workflow_scripts.core.errors import UserError
from workflow_scripts.core.figures import contact_sheet
from workflow_scripts.core.files import atomic_directory
from workflow_scripts.diffusion import train_diffusion, training
from workflow_scripts.diffusion.pipeline import class_names, load_pipeline
from workflow_scripts.diffusion.tally import Tally
from workflow_scripts.diffusion.training import (
    Labels,
    Trainer,
    TrainingViews,
    batch_rows,
    check_division,
    draw_batch,
    ema_decay,
    learning_rate,
    train,
)
from workflow_scripts.runtime.arguments import flags
from workflow_scripts.runtime.cli import run
from workflow_scripts.runtime.processes import Processes
from workflow_scripts.runtime.work import Clock, Interrupted
from workflow_scripts.study.config.diffusion import DiffusionRecipe

TINY = {
    **DiffusionRecipe().model_dump(),
    "channel_multipliers": [1, 1],
    "base_channels": 32,
    "residual_blocks": 1,
    "attention_resolutions": [4],
    "heads": 2,
    "dropout": 0.2,
    "timesteps": 50,
    "steps": 8,
    "batch_size": 4,
    "lr": 1e-3,
    "warmup_steps": 2,
    "checkpoint_every": 3,
    "grid_every": 0,
}
QUARTERS = {f"loss_q{quarter}" for quarter in range(4)}
CPU = torch.device("cpu")
WEIGHTS = "diffusion_pytorch_model.safetensors"


class StoppingClock(Clock):
    """Over (or killing the process) when asked for the n-th time."""

    def __init__(self, at: int | None = None, kill: bool = False) -> None:
        super().__init__(None)
        self.asked, self.at, self.kill = 0, at, kill

    def is_over(self) -> bool:
        self.asked += 1
        if self.asked == self.at and self.kill:
            raise KeyboardInterrupt
        return self.asked == self.at


def tiny_views(count: int = 10, size: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size), dtype=np.uint8)


def run_tiny(folder: Path, clock: Clock, settings: dict = TINY) -> dict[str, torch.Tensor]:
    views = tiny_views()
    run = start_run(folder)
    run.clock = clock
    data = TrainingViews(views, np.arange(len(views)))
    unet = train(Trainer(data, DiffusionRecipe(**settings), run.device, run.processes), run)
    return unet.state_dict()


def metrics_of(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "images_per_s"} for row in rows]


def test_interrupted_anywhere_equals_uninterrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "METRICS_EVERY", 2)
    torch.use_deterministic_algorithms(True)
    whole = run_tiny(tmp_path / "whole", StoppingClock())
    assert [row["step"] for row in metrics_of(tmp_path / "whole")] == [2, 4, 6, 8]
    assert set(metrics_of(tmp_path / "whole")[0]) == {"step", "loss", "mse", "vb", "grad_norm", "lr"} | QUARTERS

    torch.rand(7)  # whatever ran before must not matter
    with pytest.raises(Interrupted):  # after step 1, between two lines of metrics
        run_tiny(tmp_path / "parts", StoppingClock(1))
    with pytest.raises(KeyboardInterrupt):  # killed after step 5; the last checkpoint is that of step 3
        run_tiny(tmp_path / "parts", StoppingClock(4, kill=True))
    assert torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)["step"] == 3
    parts = run_tiny(tmp_path / "parts", StoppingClock())
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert metrics_of(tmp_path / "parts") == metrics_of(tmp_path / "whole")


def test_a_batch_is_a_function_of_the_step() -> None:
    rows = np.array([3, 5, 7, 11, 13])
    epochs = np.concatenate([batch_rows(rows, 0, step, 3) for step in range(10)]).reshape(6, 5)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), rows)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    views = tiny_views(14)
    recipe = DiffusionRecipe(**{**TINY, "batch_size": 64, "flip": 0.5})
    x0, t, noise = draw_batch(views, rows, recipe, 5)
    again = draw_batch(views, rows, recipe, 5)
    assert all(torch.equal(a, b) for a, b in zip((x0, t, noise), again, strict=True))
    plain = torch.from_numpy(views[batch_rows(rows, 0, 5, 64)].astype(np.float32) / 127.5 - 1)[:, None]
    is_plain = (x0 == plain).flatten(1).all(1)
    assert torch.equal(x0[~is_plain], plain[~is_plain].flip(-1))
    assert 16 < int(is_plain.sum()) < 48
    assert int(t.min()) >= 0
    assert int(t.max()) < 50
    assert len(t.unique()) > 25
    assert float(noise.std()) == pytest.approx(1, abs=0.05)


def test_average_and_learning_rate() -> None:
    assert ema_decay(0.9999, 0) == 0
    assert ema_decay(0.9999, 999) == pytest.approx(1 - 1000**-0.75)
    assert ema_decay(0.99, 10**6) == 0.99
    assert [learning_rate(DiffusionRecipe(**TINY), step) for step in range(3)] == [0.5e-3, 1e-3, 1e-3]
    annealed = DiffusionRecipe(lr=8.0, steps=4, warmup_steps=0, lr_schedule="linear")
    assert [learning_rate(annealed, step) for step in range(4)] == [8, 6, 4, 2]


def test_the_weights_that_are_kept_are_the_averaged_ones(tmp_path: Path) -> None:
    one = run_tiny(tmp_path / "one", StoppingClock(), {**TINY, "steps": 1})
    two = run_tiny(tmp_path / "two", StoppingClock(), {**TINY, "steps": 2})
    first, second = (torch.load(tmp_path / run / "checkpoint.pt", weights_only=True)["unet"] for run in ("one", "two"))
    assert not torch.equal(first["conv_out.weight"], second["conv_out.weight"])
    for name in first:
        assert torch.equal(one[name], first[name])  # no initial weight stays in
        torch.testing.assert_close(two[name], (1 - 2**-0.75) * first[name] + 2**-0.75 * second[name])


def test_it_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "METRICS_EVERY", 10)
    views = np.tile(np.linspace(0, 255, 8).astype(np.uint8), (16, 8, 1))
    settings = {**TINY, "steps": 60, "batch_size": 8, "dropout": 0.0, "flip": 0.0, "checkpoint_every": 60, "lr": 2e-3}
    run = start_run(tmp_path / "work")
    train(Trainer(TrainingViews(views, np.arange(16)), DiffusionRecipe(**settings), run.device, run.processes), run)
    rows = metrics_of(tmp_path / "work")
    assert rows[0]["mse"] > 0.5
    assert rows[-1]["mse"] < 0.25


def test_a_diverged_training_says_so_and_keeps_its_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no longer finite.*learning rate"):
        run_tiny(tmp_path / "work", StoppingClock(), {**TINY, "lr": 9e18, "warmup_steps": 0, "checkpoint_every": 1})
    checkpoint = torch.load(tmp_path / "work" / "checkpoint.pt", weights_only=True)
    assert bool(torch.isfinite(checkpoint["sums"]).all())


def test_a_training_that_gets_worse_than_no_prediction_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "METRICS_EVERY", 4)
    with pytest.raises(UserError, match=r"has diverged: up to step 4 .*learning rate \(now 0\.5\)"):
        run_tiny(tmp_path / "work", StoppingClock(), {**TINY, "lr": 0.5, "warmup_steps": 0})


def gradients(settings: dict) -> tuple[list[torch.Tensor], Trainer]:
    trainer = Trainer(
        TrainingViews(tiny_views(), np.arange(10)), DiffusionRecipe(**{**TINY, **settings}), CPU, Processes()
    )
    for step in range(2):  # the first gradients are zero in all branches
        trainer.step(step)
    return [parameter.grad for parameter in trainer.parameters if parameter.grad is not None], trainer


def test_a_batch_in_parts_has_the_gradient_of_the_batch() -> None:
    (whole, one), (parts, two) = (gradients({"dropout": 0.0, "accumulate": count}) for count in (1, 4))
    assert len(whole) == len(parts) == len(one.parameters)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(one.tally.sums, two.tally.sums, rtol=1e-5, atol=0)


def test_fp16_scales_its_gradients_and_has_the_same_ones(tmp_path: Path) -> None:
    (exact, _), (rounded, trainer) = (gradients({"dropout": 0.0, "precision": name}) for name in ("float32", "fp16"))
    for a, b in zip(exact, rounded, strict=True):
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.02 * float(a.abs().max()) + 1e-5)
    assert trainer.precision.scaler.get_scale() == 65536
    settings = {**TINY, "precision": "fp16"}
    whole = run_tiny(tmp_path / "whole", StoppingClock(), settings)
    with pytest.raises(Interrupted):
        run_tiny(tmp_path / "parts", StoppingClock(4), settings)
    parts = run_tiny(tmp_path / "parts", StoppingClock(), settings)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_tally_by_quarters_and_steps() -> None:
    tally = Tally(100, CPU)
    tally.add_samples(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 0.0, 0.0]), torch.tensor([0, 24, 99]))
    tally.add_step(torch.tensor(4.0), may_skip=True)
    tally.add_step(torch.tensor(float("inf")), may_skip=True)
    assert tally.means(Processes()) == pytest.approx(
        {
            "loss": 6.5 / 3, "mse": 2.0, "vb": 0.5 / 3, "loss_q0": 1.75, "loss_q1": None, "loss_q2": None,
            "loss_q3": 3.0, "grad_norm": 4.0, "skipped_steps": 1.0,
        }
    )  # fmt: skip
    tally.add_step(torch.tensor(float("inf")), may_skip=False)
    assert tally.means(Processes())["grad_norm"] == float("inf")


def test_a_batch_must_divide_into_processes_and_parts() -> None:
    check_division(DiffusionRecipe(batch_size=12, accumulate=2), 12, 3)
    with pytest.raises(UserError, match="batch of 12 does not divide into 2 processes of 4 parts.*multiple of 8"):
        check_division(DiffusionRecipe(batch_size=12, accumulate=4), 12, 2)


def test_contact_sheet() -> None:
    images = np.stack([np.full((8, 8), 20 * n, dtype=np.uint8) for n in range(1, 6)])
    sheet = contact_sheet(images, "")
    assert sheet.shape == (16, 24)
    assert sheet[::8, ::8].tolist() == [[20, 40, 60], [80, 100, 0]]
    stamped = contact_sheet(images, "PHANTOM")
    np.testing.assert_array_equal(stamped[-16:], sheet)
    assert stamped[:-16].max() > 200


def test_a_conditional_model_learns_what_its_labels_mean() -> None:
    """Dark views are class 0, bright ones class 1: given the right one, it removes noise better than given the other."""
    classes = np.arange(32) % 2
    views = np.repeat((64 + 128 * classes)[:, None, None], 8, axis=1).repeat(8, axis=2).astype(np.uint8)
    settings = {**TINY, "batch_size": 8, "dropout": 0.0, "lr": 3e-3, "ema": 0.9}
    data = TrainingViews(views, np.arange(32), Labels(classes, 2))
    trainer = Trainer(data, DiffusionRecipe(**settings), CPU, Processes())
    for step in range(60):
        trainer.step(step)
    labels = torch.from_numpy(np.tile(classes, 16))
    x0 = torch.from_numpy(np.tile(views, (16, 1, 1)).astype(np.float32) / 127.5 - 1)[:, None]
    noise, t = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1)), torch.full((len(x0),), 30)
    errors = []
    for given in (labels, 1 - labels):
        with torch.no_grad():
            predicted = trainer.average(trainer.process.q_sample(x0, t, noise), t, class_labels=given).sample[:, :1]
        errors.append(float(((predicted - noise) ** 2).mean()))
    assert errors[0] < 0.97 * errors[1]


def test_labels_follow_their_views_and_are_dropped_at_random() -> None:
    labels = Labels(np.arange(10) % 3, 3)
    rows = np.array([4, 5, 6, 7])
    kept = labels.draw(DiffusionRecipe(seed=0, label_dropout=0.0), rows, 0, range(1, 4))
    assert kept.tolist() == [2, 0, 1]
    many = np.zeros(400, dtype=int)
    dropped = labels.draw(DiffusionRecipe(seed=0, label_dropout=0.25), many, 3, range(400))
    assert set(dropped.tolist()) == {0, 3}
    assert 60 < int((dropped == 3).sum()) < 140
    parts = [
        labels.draw(DiffusionRecipe(seed=0, label_dropout=0.25), many, 3, part)
        for part in (range(100), range(100, 400))
    ]
    assert torch.equal(torch.cat(parts), dropped)


def test_command_trains_a_conditional_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = [*write_study(tmp_path), *command({**TINY, "steps": 1})]
    with pytest.raises(SystemExit):
        run(train_diffusion.main, train_diffusion.parser(), [*study, "--asked-classes", "inhomogeneous"])
    assert "label 'homogeneous' is not one of inhomogeneous" in capsys.readouterr().err
    run(train_diffusion.main, train_diffusion.parser(), [*study, "--asked-classes", "homogeneous", "inhomogeneous"])
    unet, _ = load_pipeline(tmp_path / "model")
    assert unet.config.num_class_embeds == 3
    assert class_names(tmp_path / "model") == ["homogeneous", "inhomogeneous"]
    assert "0 homogeneous, 1 inhomogeneous, 2 none" in (tmp_path / "model" / "README.md").read_text()
    (tmp_path / "model" / "parameters.json").unlink()
    with pytest.raises(UserError, match="conditioned on 3 classes, but parameters.json names 0"):
        load_pipeline(tmp_path / "model")


def write_study(folder: Path, patients: int = 6, size: int = 8) -> list[str]:
    views = tiny_views(2 * patients, size)
    np.save(folder / "labelled.npy", views)
    names = [f"p{number // 2:02d}" for number in range(len(views))]
    index = pd.DataFrame({"view_id": [f"v{n}#full" for n in range(len(views))], "image_id": "v", "patient_id": names})
    index.assign(organ="testicle", label="homogeneous", view="full").to_csv(folder / "labelled.csv", index=False)
    pd.DataFrame({"patient_id": ["p00"]}).to_csv(folder / "holdout.csv", index=False)
    index.assign(fold=np.arange(len(index)) // 4).to_csv(folder / "folds.csv", index=False)
    return [
        *("--views", str(folder / "labelled.npy"), "--index", str(folder / "labelled.csv")),
        *("--holdout", str(folder / "holdout.csv"), "--output-model", str(folder / "model"), "--device", "cpu"),
        *("--output-metrics", str(folder / "metrics.jsonl"), "--work-dir", str(folder / "work")),
    ]


def command(settings: dict) -> list[str]:
    return flags(settings)


def test_command_writes_a_pipeline_folder(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    more = ["--origin", "PHANTOM", "--folds", str(tmp_path / "folds.csv"), "--exclude-fold", "1", "--time-limit", "0"]
    more += ["--tensorboard", str(tmp_path / "board")]
    run(
        train_diffusion.main, train_diffusion.parser(), [*study, *more, *command({**TINY, "steps": 2, "grid_every": 1})]
    )
    parameters = json.loads((tmp_path / "model" / "parameters.json").read_text())
    assert (parameters["views"], parameters["patients"], parameters["views left out"]) == (6, 3, 6)
    assert parameters["settings"]["steps"] == 2
    assert "PHANTOM" in (tmp_path / "model" / "README.md").read_text()
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 2
    assert not (tmp_path / "work").exists()
    assert not list(tmp_path.glob(".*"))
    grids = sorted((tmp_path / "model" / "samples").iterdir())
    assert [file.name for file in grids] == ["step_0000001.png", "step_0000002.png"]
    with Image.open(grids[0]) as picture:
        assert picture.size == (32, 32 + 12)
    events = EventAccumulator(str(tmp_path / "board")).Reload()
    assert {"loss", "loss_q0", "grad_norm", "lr"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Images("samples")] == [1, 2]

    pipeline = DDPMPipeline.from_pretrained(tmp_path / "model")
    assert pipeline.scheduler.config.num_train_timesteps == 50
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(batch_size=2, num_inference_steps=3, output_type="np").images
    assert images.shape == (2, 8, 8, 1)
    unet, betas = load_pipeline(tmp_path / "model")
    assert unet.config.sample_size == 8
    assert len(betas) == 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 11}, "10 views to learn from are fewer than one batch of 11"),
        ({"accumulate": 3}, "4 does not divide into 1 processes of 3 parts"),
        ({"channel_multipliers": [1, 1, 1, 1, 1], "attention_resolutions": []}, "must be a multiple of 16"),
        ({"schedule": "linear", "timesteps": 10}, "more than 20"),
    ],
)
def test_command_refuses_before_it_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict, message: str
) -> None:
    with pytest.raises(SystemExit):
        run(train_diffusion.main, train_diffusion.parser(), [*write_study(tmp_path), *command({**TINY, **change})])
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert not (tmp_path / "work").exists()


def test_a_model_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with atomic_directory(tmp_path / "model") as folder:
            (folder / text).write_text(text)
    assert [file.name for file in (tmp_path / "model").iterdir()] == ["new"]
    with pytest.raises(FileNotFoundError), atomic_directory(tmp_path / "model") as folder:
        (folder / "nowhere" / "file").write_text("")
    assert [file.name for file in tmp_path.rglob("*")] == ["model", "new"]


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


@pytest.mark.slow
def test_two_processes_equal_one_in_two_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    study, settings = write_study(tmp_path), {**TINY, "steps": 4, "augment": "small_data"}
    run(train_diffusion.main, train_diffusion.parser(), [*study, *command({**settings, "accumulate": 2})])
    (tmp_path / "model").rename(tmp_path / "one")
    (tmp_path / "metrics.jsonl").rename(tmp_path / "one.jsonl")

    # What torchrun does, with this process as the first of the two.
    both = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    words = [*study, *command(settings)]
    other = subprocess.Popen(
        [sys.executable, "-m", "workflow_scripts.diffusion.train_diffusion", *words, "--log", str(tmp_path / "never.txt")],
        cwd=REPOSITORY, env={**os.environ, **both, "RANK": "1", "LOCAL_RANK": "1"},
    )  # fmt: skip
    for name, value in {**both, "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    run(train_diffusion.main, train_diffusion.parser(), words)
    assert other.wait(60) == 0
    assert capfd.readouterr().err.count("2 x cpu, float32") == 1
    assert not (tmp_path / "never.txt").exists()
    one, two = (load_file(tmp_path / name / "unet" / WEIGHTS) for name in ("one", "model"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-5, atol=1e-6)
    rows = [json.loads((tmp_path / name).read_text()) for name in ("one.jsonl", "metrics.jsonl")]
    assert rows[0].keys() == rows[1].keys()
    for key in rows[0].keys() - {"images_per_s"}:
        assert rows[0][key] == pytest.approx(rows[1][key], rel=1e-5), key
