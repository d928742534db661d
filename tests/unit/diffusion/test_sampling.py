"""Held-out patients, sampling in shards, joining them."""

import json
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load, save_file

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv, read_rows
from workflow_scripts.diffusion import hold_out_patients as holdout
from workflow_scripts.diffusion import join_shards
from workflow_scripts.diffusion import sample_shard as sample
from workflow_scripts.diffusion import sampler as sampler_module
from workflow_scripts.diffusion.hold_out_patients import choose_holdout
from workflow_scripts.diffusion.pipeline import class_names, load_pipeline, save_pipeline
from workflow_scripts.diffusion.process import GaussianProcess, schedule_betas, spaced_timesteps
from workflow_scripts.diffusion.sampler import (
    Condition,
    generator_noise,
    image_noise,
    kept_timesteps,
    predict,
    reverse_steps,
    shard_range,
    to_grey,
)
from workflow_scripts.diffusion.unet import build_unet
from workflow_scripts.runtime import run as run_module
from workflow_scripts.runtime.cli import run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network, but with an output that is not zero."""
    torch.manual_seed(0)
    unet = build_unet(8, 32, [1, 1], 1, [4], 2, 0.1)
    for name, module in unet.named_modules():
        if name.endswith(("conv2", "to_out.0", "conv_out")):
            torch.nn.init.normal_(module.weight, std=0.05)
    folder = tmp_path_factory.mktemp("model")
    save_pipeline(unet, 100, "cosine", folder)
    return folder


def draw(
    model: Path, output: Path, *, shard: int = 0, shards: int = 1, batch: int = 5, steps: int = 6, **more: str
) -> np.ndarray:
    flags = {
        "model": model,
        "images": 7,
        "shard": shard,
        "shard-count": shards,
        "output-shard": output,
        "batch-size": batch,
        "steps": steps,
    }
    flags |= {"device": "cpu", "work-dir": output.with_suffix(".work"), **more}
    run(sample.main, sample.parser(), [word for key, value in flags.items() for word in (f"--{key}", str(value))])
    return np.load(output)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpmsolver++", "sde_dpm_solver"])
def test_images_do_not_depend_on_shards_and_batches(model: Path, tmp_path: Path, sampler: str) -> None:
    steps = 10 if sampler == "ddim" else 6
    whole = draw(model, tmp_path / "whole.npy", batch=5, steps=steps, sampler=sampler)
    assert whole.shape == (7, 8, 8)
    assert whole.dtype == np.uint8
    parts = [
        draw(model, tmp_path / f"{shard}.npy", shard=shard, shards=3, batch=2, steps=steps, sampler=sampler)
        for shard in range(3)
    ]
    assert [len(part) for part in parts] == [2, 2, 3]
    assert np.abs(np.concatenate(parts).astype(int) - whole).max() <= 1
    assert len({image.tobytes() for image in whole}) == 7
    other = draw(model, tmp_path / "other.npy", steps=steps, sampler=sampler, seed="1")
    assert np.abs(other.astype(int) - whole).mean() > 5


@pytest.mark.parametrize("sampler", ["ancestral", "dpmsolver++", "sde_dpm_solver"])
def test_interrupted_sampling_continues_inside_a_batch(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sampler: str
) -> None:
    whole = draw(model, tmp_path / "whole.npy", batch=3, sampler=sampler)

    class OverSoon(run_module.Clock):
        asked = 0

        def is_over(self) -> bool:
            self.asked += 1
            return self.asked == 8  # in the second batch, after 2 of 6 steps

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "Clock", OverSoon)
        with pytest.raises(SystemExit):
            draw(model, tmp_path / "parts.npy", batch=3, sampler=sampler)
    assert "step 8 of 18 (sampling)" in capsys.readouterr().err
    assert json.loads((tmp_path / "parts.work" / "state.json").read_text())["progress"] == 8
    assert not (tmp_path / "parts.npy").exists()
    begun: list[int] = []

    def recording(*arguments: Any) -> Iterator[tuple[int, torch.Tensor]]:
        begun.append(arguments[3])
        return reverse_steps(*arguments)

    monkeypatch.setattr(sampler_module, "reverse_steps", recording)
    np.testing.assert_array_equal(draw(model, tmp_path / "parts.npy", batch=3, sampler=sampler), whole)
    assert begun == [2, 0]  # the rest of the second batch, then the third
    assert "from 8" in capsys.readouterr().err
    assert not (tmp_path / "parts.work").exists()


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained conditional network of two classes, whose outputs differ by class."""
    torch.manual_seed(0)
    unet = build_unet(8, 32, [1, 1], 1, [4], 2, 0.1, classes=3)
    for name, module in unet.named_modules():
        if name.endswith(("conv2", "to_out.0", "conv_out")):
            torch.nn.init.normal_(module.weight, std=0.05)
    folder = tmp_path_factory.mktemp("conditional")
    save_pipeline(unet, 100, "cosine", folder)
    (folder / "parameters.json").write_text('{"classes": ["dark", "bright"]}')
    return folder


def test_a_class_is_asked_for_whatever_the_shard(conditional: Path, tmp_path: Path) -> None:
    whole = draw(conditional, tmp_path / "whole.npy", batch=5, guidance="1.5")
    parts = [
        draw(conditional, tmp_path / f"{shard}.npy", shard=shard, shards=3, batch=2, guidance="1.5")
        for shard in range(3)
    ]
    assert np.abs(np.concatenate(parts).astype(int) - whole).max() <= 1
    plain = draw(conditional, tmp_path / "plain.npy", batch=5)
    assert np.abs(plain.astype(int) - whole).max() > 1


def test_guidance_goes_from_no_class_to_the_class_and_beyond(conditional: Path) -> None:
    unet, _ = load_pipeline(conditional)
    x, t, images = torch.randn(2, 1, 8, 8), torch.tensor([40, 40]), [0, 3]
    with torch.no_grad():
        outputs = [predict(unet, x, t, images, Condition(2, guidance)) for guidance in (0.0, 1.0, 2.0)]
        free, asked = (unet(x, t, class_labels=torch.tensor(labels)).sample for labels in ([2, 2], [0, 1]))
    assert not torch.allclose(free, asked, atol=1e-3)
    torch.testing.assert_close(outputs[1], asked)
    torch.testing.assert_close(outputs[0][:, :1], free[:, :1])
    torch.testing.assert_close(outputs[2][:, :1], 2 * asked[:, :1] - free[:, :1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs[2][:, 1:], asked[:, 1:])


def test_classes_must_be_those_of_the_model(
    model: Path, conditional: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, more, message in (
        (
            conditional,
            ["--asked-classes"],
            r"is conditioned on the classes \['dark', 'bright'\], the study asks for none",
        ),
        (model, ["--asked-classes", "dark", "bright"], "is conditioned on the classes none, the study asks for"),
        (model, ["--guidance", "2"], "is unconditional, there is nothing to guide"),
    ):
        words = [
            "--model",
            str(folder),
            "--images",
            "2",
            "--steps",
            "3",
            "--output-shard",
            str(tmp_path / "o.npy"),
            *more,
        ]
        with pytest.raises(SystemExit):
            run(sample.main, sample.parser(), [*words, "--device", "cpu", "--work-dir", str(tmp_path / "work")])
        assert re.search(message, capsys.readouterr().err)


def test_every_step_has_noise_of_its_own() -> None:
    process = GaussianProcess(schedule_betas("cosine", 50), spaced_timesteps(50, 4))
    unet = build_unet(8, 32, [1, 1], 1, [4], 2, 0.0).eval()  # fresh, so its output is zero
    x = start = image_noise(7, 0, [2, 5], 8, torch.device("cpu"))
    *_, (done, sampled) = reverse_steps(unet, process, start, 0, [2, 5], 7, "ancestral")
    for step in range(4):
        noise = image_noise(7, step + 1, [2, 5], 8, torch.device("cpu"))
        x = process.ancestral_step(torch.zeros(2, 2, 8, 8), x, torch.full((2,), 3 - step), noise)
    assert done == 4
    assert torch.equal(sampled, x)


class GaussianData(torch.nn.Module):
    """The network that knows data of mean 0 and one standard deviation: the deterministic samplers' path is known."""

    def __init__(self, process: GaussianProcess, std: float) -> None:
        super().__init__()
        self.alphas, self.std = torch.from_numpy(np.cumprod(1 - process.full_betas)).float(), std

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor) -> Any:
        signal = self.alphas[timesteps][:, None, None, None]
        noise = (1 - signal).sqrt() * x / (signal * self.std**2 + 1 - signal)
        return SimpleNamespace(sample=torch.cat([noise, torch.zeros_like(noise)], dim=1))


def sampling_error(sampler: str, steps: int) -> float:
    betas = schedule_betas("cosine", 1000)
    process = GaussianProcess(betas, kept_timesteps(1000, steps, sampler))
    start = torch.linspace(-2, 2, 16).reshape(1, 1, 4, 4)
    *_, (_, state) = reverse_steps(GaussianData(process, 0.3), process, start, 0, [0], 0, sampler)
    return float((state[:, :1] - 0.3 * start).abs().max())


def test_dpm_solver_needs_fewer_steps_than_ddim() -> None:
    errors = {steps: sampling_error("dpmsolver++", steps) for steps in (10, 20, 40)}
    assert errors[10] > 2 * errors[20] > 4 * errors[40]
    assert errors[20] < 0.02
    assert sampling_error("ddim", 20) > 3 * errors[20]


def test_the_sde_solver_draws_the_spread_of_the_data() -> None:
    process = GaussianProcess(schedule_betas("cosine", 1000), kept_timesteps(1000, 30, "sde_dpm_solver"))
    images = range(64)
    start = image_noise(0, 0, images, 8, torch.device("cpu"))
    *_, (_, state) = reverse_steps(GaussianData(process, 0.3), process, start, 0, images, 0, "sde_dpm_solver")
    assert float(state[:, :1].std()) == pytest.approx(0.3, rel=0.1)
    assert (
        float(np.corrcoef(state[:, :1].flatten(), start.flatten())[0, 1]) < 0.5
    )  # the deterministic path keeps its start


def test_noise_belongs_to_image_and_step() -> None:
    for noise in (image_noise, generator_noise):
        many = noise(0, 3, range(6), 8, torch.device("cpu"))
        assert torch.equal(many[4:], noise(0, 3, range(4, 6), 8, torch.device("cpu")))
        assert not torch.equal(many, noise(0, 4, range(6), 8, torch.device("cpu")))
        assert not torch.equal(many, noise(1, 3, range(6), 8, torch.device("cpu")))
        assert float(many.std()) == pytest.approx(1, abs=0.15)


def test_shards_cover_everything_once() -> None:
    assert [j for shard in range(6) for j in shard_range(20, 6, shard)] == list(range(20))
    with pytest.raises(UserError, match="numbered 0 to 2"):
        shard_range(9, 3, 3)
    with pytest.raises(UserError, match="cannot be divided into 3"):
        shard_range(2, 3, 0)


def test_grey_levels() -> None:
    x = torch.tensor([-1.5, -1, 0, 1, 1.5]).reshape(1, 1, 1, 5)
    assert to_grey(x).ravel().tolist() == [0, 0, 128, 255, 255]
    with pytest.raises(UserError, match="not finite"):
        to_grey(x * float("nan"))


def test_only_models_that_can_be_sampled_are_loaded(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a Diffusers folder"):
        load_pipeline(tmp_path)
    scheduler = model / "scheduler" / "scheduler_config.json"
    before = scheduler.read_text()
    try:
        for key, value in {
            "variance_type": "fixed_small",
            "prediction_type": "sample",
            "beta_schedule": "sigmoid",
        }.items():
            scheduler.write_text(json.dumps({**json.loads(before), key: value}))
            with pytest.raises(UserError, match=f"{key} '{value}'"):
                load_pipeline(model)
        for key, values in {
            "num_train_timesteps": [0, 10**12, "100"],
            "trained_betas": [[], [[0.1]], [0.1, "x"], [0.5, 2.0], [0.1, math.nan]],
        }.items():
            for odd in values:
                scheduler.write_text(json.dumps({**json.loads(before), key: odd}))
                with pytest.raises(UserError, match="scheduler_config.json describes no process"):
                    load_pipeline(model)
    finally:
        scheduler.write_text(before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_size": 0}, "sample_size .* at most 1024, not 0"),
        ({"sample_size": 10**6}, "sample_size .* at most 1024, not 1000000"),
        ({"sample_size": [8, 8]}, r"sample_size .* not \[8, 8\]"),
        ({"sample_size": 7}, "cannot compute a view of 7 x 7 pixels: "),
        ({"norm_eps": "x"}, "cannot compute a view of 8 x 8 pixels: "),
        ({"norm_num_groups": "x"}, "does not load|cannot compute a view"),
        ({"center_input_sample": 3, "resnet_time_scale_shift": "x"}, "does not load|cannot compute a view"),
    ],
)
def test_a_config_that_cannot_be_computed_is_refused(
    model: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    with pytest.raises(UserError, match=message):
        load_pipeline(folder)


@pytest.mark.parametrize("parameters", [[], {"classes": "ab"}, {"classes": [1, 2]}])
def test_the_classes_of_a_model_must_be_names(tmp_path: Path, parameters: object) -> None:
    (tmp_path / "parameters.json").write_text(json.dumps(parameters))
    with pytest.raises(UserError, match="does not hold the parameters of a model"):
        class_names(tmp_path)


def test_weights_must_be_whole_and_fit(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    content = file.read_bytes()
    weights = load(content)
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="may be truncated or of another architecture"):
        load_pipeline(folder)
    wrong = {
        "lack what.*1 tensors, the first: conv_in.bias": {k: v for k, v in weights.items() if k != "conv_in.bias"},
        "have more than.*the first: more": {**weights, "more": torch.zeros(1)},
        "size mismatch for conv_in.bias": {**weights, "conv_in.bias": torch.zeros(64)},
    }
    for message, changed in wrong.items():
        save_file(changed, file)
        with pytest.raises(UserError, match=message):
            load_pipeline(folder)
    file.unlink()
    torch.save(weights, file.with_suffix(".bin"))  # a pickle in its place is not even opened
    with pytest.raises(UserError, match="no file named diffusion_pytorch_model.safetensors"):
        load_pipeline(folder)


def test_joining(tmp_path: Path) -> None:
    shards = [np.full((count, 4, 4), count % 256, dtype=np.uint8) for count in (300, 1, 2)]
    for number, shard in enumerate(shards):
        np.save(tmp_path / f"{number}.npy", shard)
    files = [str(tmp_path / f"{number}.npy") for number in range(3)]
    outputs = ["--output-views", str(tmp_path / "synthetic.npy"), "--output-index", str(tmp_path / "synthetic.csv")]
    command = ["--organ", "testicle", *outputs, "--shards", *files]
    run(join_shards.main, join_shards.parser(), command)
    np.testing.assert_array_equal(np.load(tmp_path / "synthetic.npy"), np.concatenate(shards))
    rows = read_rows(tmp_path / "synthetic.csv")
    assert [row["view_id"] for row in rows] == [f"synthetic_{j:06d}" for j in range(303)]
    assert rows[0] | {"view_id": "", "image_id": ""} == {
        "view_id": "", "image_id": "", "patient_id": "", "organ": "testicle", "label": "", "view": "synthetic",
    }  # fmt: skip
    run(join_shards.main, join_shards.parser(), [*command, "--asked-classes", "dark", "bright"])
    labels = [row["label"] for row in read_rows(tmp_path / "synthetic.csv")]
    assert labels == ["dark", "bright"] * 151 + ["dark"]
    np.save(tmp_path / "odd.npy", np.zeros((1, 5, 5), dtype=np.uint8))
    with pytest.raises(SystemExit):
        run(join_shards.main, join_shards.parser(), [*command, str(tmp_path / "odd.npy")])


def test_holdout_is_stratified_and_reproducible() -> None:
    labels = {f"p{n:03d}": "inhomogeneous" if n % 5 == 0 else "homogeneous" for n in range(220)}
    chosen = choose_holdout(labels, 0.15, 0)
    assert len(chosen) == 33
    assert sum(labels[patient] == "inhomogeneous" for patient in chosen) in (6, 7)
    assert chosen == choose_holdout(dict(reversed(labels.items())), 0.15, 0)
    assert chosen != choose_holdout(labels, 0.15, 1)
    assert choose_holdout(labels, 0, 0) == []
    assert len(choose_holdout({"a": "x", "b": "y", "c": "z"}, 0.01, 0)) == 1
    with pytest.raises(UserError, match="at least two are needed"):
        choose_holdout({"a": "x"}, 0.15, 0)
    with pytest.raises(UserError, match=r"between 0 and 0\.5"):
        choose_holdout(labels, 0.6, 0)


def test_holdout_command(tmp_path: Path) -> None:
    patients = [f"{n:03d}" for n in range(12)]  # names like numbers stay text
    index = pd.DataFrame({"patient_id": np.repeat(patients, 2), "label": ["homogeneous", "inhomogeneous"] * 12})
    index.to_csv(tmp_path / "index.csv", index=False)
    pd.DataFrame({"patient_id": patients, "fold": [0, 1, 2] * 4}).to_csv(tmp_path / "folds.csv", index=False)
    command = ["--index", str(tmp_path / "index.csv"), "--seed", "0", "--output-holdout", str(tmp_path / "holdout.csv")]
    run(holdout.main, holdout.parser(), [*command, "--share", "0"])
    assert (tmp_path / "holdout.csv").read_text() == "patient_id\n"
    left_out = ["--folds", str(tmp_path / "folds.csv"), "--exclude-fold", "1"]
    run(holdout.main, holdout.parser(), [*command, "--share", "0.5", *left_out])
    chosen = read_csv(tmp_path / "holdout.csv")["patient_id"].tolist()
    assert len(chosen) == 4
    assert not {int(patient) % 3 for patient in chosen} & {1}
