"""U-Net and diffusion process against values that guided-diffusion computed."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.shared import SHARED, needs_golden
from workflow_scripts.diffusion.process import GaussianProcess, schedule_betas, spaced_timesteps
from workflow_scripts.diffusion.unet import import_state, infer_architecture

pytestmark = needs_golden
GOLDEN = SHARED / "golden"


def golden_unet(name: str) -> torch.nn.Module:
    made = json.loads((GOLDEN / f"unet_{name}.json").read_text())
    heads = made["num_heads"] if made["num_head_channels"] == -1 else None
    head_size = made["num_head_channels"] if heads is None else None
    state = load_file(GOLDEN / f"unet_{name}.safetensors")
    plan = infer_architecture(state, made["image_size"], heads, head_size)
    assert plan.residual_blocks == made["num_res_blocks"]
    assert plan.channels == tuple(made["model_channels"] * m for m in made["channel_mult"])
    assert [2**level for level, attends in enumerate(plan.attends) if attends] == made["attention_resolutions"]
    assert plan.resnet_resampling == made["resblock_updown"]
    assert plan.classes == made["num_classes"]
    return import_state(state, plan).eval()


@pytest.fixture(scope="module")
def default_unet() -> torch.nn.Module:
    return golden_unet("default")


@pytest.mark.parametrize("name", ["default", "updown", "classcond"])
def test_imported_unet_computes_what_the_original_computed(name: str) -> None:
    unet = golden_unet(name)
    io = {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / f"unet_{name}_io.npz").items()}
    with torch.no_grad():
        y = unet(io["x"], io["t"], class_labels=io.get("labels")).sample
    torch.testing.assert_close(y, io["y"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_tables_loss_and_reverse_step(schedule: str, default_unet: torch.nn.Module) -> None:
    golden = np.load(GOLDEN / f"diffusion_{schedule}.npz")
    process = GaussianProcess(schedule_betas(schedule, 1000))
    np.testing.assert_allclose(process.betas, golden["betas"], rtol=1e-9)
    np.testing.assert_allclose(process.alphas_cumprod, golden["alphas_cumprod"], rtol=1e-9)
    np.testing.assert_allclose(process.posterior_variance, golden["posterior_variance"], rtol=1e-9)
    x0, noise, t = (torch.from_numpy(golden[key]) for key in ("x0", "noise", "t"))
    xt = process.q_sample(x0, t, noise)
    np.testing.assert_allclose(xt, golden["xt"], atol=1e-6)
    with torch.no_grad():
        output = default_unet(xt, t).sample
        mse, vb = process.losses(output, x0, xt, t, noise)
        mean, log_variance, predicted = process.reverse(output, xt, t)
    np.testing.assert_allclose(mse, golden["mse"], rtol=1e-4)
    np.testing.assert_allclose(vb, golden["vb"], rtol=1e-4)
    np.testing.assert_allclose(mse + vb, golden["loss"], rtol=1e-4)
    np.testing.assert_allclose(mean, golden["mean"], atol=1e-4)
    np.testing.assert_allclose(log_variance, golden["log_variance"], atol=1e-4, rtol=1e-5)
    # x_0 = x_t / signal - noise / signal * epsilon: at t = 999 of the linear schedule that last factor is 157, and the
    # network's own float32 rounding (1e-6) shows by so much. (On the cosine schedule everything there is clipped.)
    tolerances = [1e-4, 1e-4, 1e-4, 3e-4 if schedule == "linear" else 1e-4]
    assert golden["t"].tolist() == [0, 1, 500, 999]
    for ours, theirs, atol in zip(predicted, golden["pred_xstart"], tolerances, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=atol)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize(("name", "count"), [("25", 25), ("ddim10", 10)])
def test_respaced_trajectories(schedule: str, name: str, count: int, default_unet: torch.nn.Module) -> None:
    golden = np.load(GOLDEN / f"sampling_{schedule}_{name}.npz")
    is_ddim = name.startswith("ddim")
    kept = spaced_timesteps(1000, count, evenly=is_ddim)
    np.testing.assert_array_equal(kept, golden["timesteps"])
    process = GaussianProcess(schedule_betas(schedule, 1000), kept)
    x = torch.from_numpy(golden["init"])
    with torch.no_grad():
        for step, noise in enumerate(torch.from_numpy(golden["noise"])):
            t = torch.full((len(x),), count - 1 - step)
            output = default_unet(x, process.timesteps[t]).sample
            x = process.ddim_step(output, x, t) if is_ddim else process.ancestral_step(output, x, t, noise)
            np.testing.assert_allclose(x, golden["samples"][step], atol=1e-3, err_msg=f"step {step}")
