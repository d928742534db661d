"""Training of the diffusion model: draws, resume, learning, the command and its folder."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDPMPipeline

from workflow_scripts import train_diffusion
from workflow_scripts.cli import flags, run
from workflow_scripts.diffusion import training
from workflow_scripts.diffusion.pipeline import load_pipeline
from workflow_scripts.diffusion.training import batch_rows, draw_batch, ema_decay, learning_rate, train
from workflow_scripts.errors import UserError
from workflow_scripts.files import atomic_directory
from workflow_scripts.study.schema import recipe_defaults
from workflow_scripts.training.work import Clock, Interrupted, WorkDir

TINY = {
    **recipe_defaults("diffusion_recipe"),
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
}
CPU = torch.device("cpu")


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
    unet = train(views, np.arange(len(views)), settings, CPU, WorkDir(folder, {"settings": settings}), clock)
    return unet.state_dict()


def metrics_of(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "images_per_s"} for row in rows]


def test_interrupted_anywhere_equals_uninterrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "METRICS_EVERY", 2)
    torch.use_deterministic_algorithms(True)
    whole = run_tiny(tmp_path / "whole", StoppingClock())
    assert [row["step"] for row in metrics_of(tmp_path / "whole")] == [2, 4, 6, 8]
    assert set(metrics_of(tmp_path / "whole")[0]) == {"step", "loss", "mse", "vb", "grad_norm", "lr"}

    torch.rand(7)  # whatever ran before must not matter
    with pytest.raises(Interrupted):  # before step 2, between two lines of metrics
        run_tiny(tmp_path / "parts", StoppingClock(2))
    with pytest.raises(KeyboardInterrupt):  # killed before step 6; the last checkpoint is that of step 3
        run_tiny(tmp_path / "parts", StoppingClock(5, kill=True))
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
    x0, t, noise = draw_batch(views, rows, {**TINY, "batch_size": 64, "flip": 0.5}, 5)
    again = draw_batch(views, rows, {**TINY, "batch_size": 64, "flip": 0.5}, 5)
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
    assert [learning_rate(TINY, step) for step in range(3)] == [0.5e-3, 1e-3, 1e-3]


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
    train(views, np.arange(16), settings, CPU, WorkDir(tmp_path / "work", {}), StoppingClock())
    rows = metrics_of(tmp_path / "work")
    assert rows[0]["mse"] > 0.5
    assert rows[-1]["mse"] < 0.25


def test_a_diverged_training_says_so_and_keeps_its_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no longer finite.*learning rate"):
        run_tiny(tmp_path / "work", StoppingClock(), {**TINY, "lr": 1e30, "warmup_steps": 0, "checkpoint_every": 1})
    checkpoint = torch.load(tmp_path / "work" / "checkpoint.pt", weights_only=True)
    assert bool(torch.isfinite(checkpoint["sums"]).all())


def write_study(folder: Path, patients: int = 6, size: int = 8) -> list[str]:
    views = tiny_views(2 * patients, size)
    np.save(folder / "labelled.npy", views)
    names = [f"p{number // 2:02d}" for number in range(len(views))]
    index = pd.DataFrame({"view_id": [f"v{n}#full" for n in range(len(views))], "image_id": "v", "patient_id": names})
    index.assign(organ="testicle", label="homogeneous", view="full").to_csv(folder / "labelled.csv", index=False)
    pd.DataFrame({"patient_id": ["p00"]}).to_csv(folder / "holdout.csv", index=False)
    pd.DataFrame({"patient_id": sorted(set(names)), "fold": [0, 0, 1, 1, 2, 2]}).to_csv(
        folder / "folds.csv", index=False
    )
    return [
        *("--views", str(folder / "labelled.npy"), "--index", str(folder / "labelled.csv")),
        *("--holdout", str(folder / "holdout.csv"), "--output", str(folder / "model"), "--device", "cpu"),
        *("--output-metrics", str(folder / "metrics.jsonl"), "--work-dir", str(folder / "work")),
    ]


def command(settings: dict) -> list[str]:
    return flags(settings).split()


def test_command_writes_a_pipeline_folder(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    more = ["--origin", "PHANTOM", "--folds", str(tmp_path / "folds.csv"), "--exclude-fold", "1", "--time-limit", "0"]
    run(train_diffusion.main, train_diffusion.parser(), [*study, *more, *command({**TINY, "steps": 2})])
    parameters = json.loads((tmp_path / "model" / "parameters.json").read_text())
    assert (parameters["views"], parameters["patients"], parameters["views left out"]) == (6, 3, 6)
    assert parameters["settings"]["steps"] == 2
    assert "PHANTOM" in (tmp_path / "model" / "README.md").read_text()
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 2
    assert not (tmp_path / "work").exists()
    assert not list(tmp_path.glob(".*"))

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
        ({"batch_size": 11}, "10 views to learn from.*fewer than one batch of 11"),
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
