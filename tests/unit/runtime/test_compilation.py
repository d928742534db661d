"""Compiled networks: when they are, that they compute the same, and what happens where they cannot be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.exc import TorchDynamoException
from torch._functorch.aot_autograd import make_boxed_func

from tests.network_stages import DIFFUSION, pretraining, trainer
from workflow_scripts.core.errors import UserError
from workflow_scripts.diffusion.process import GaussianProcess, schedule_betas
from workflow_scripts.diffusion.sampler import image_noise, kept_timesteps, reverse_steps
from workflow_scripts.diffusion.training import unet_of
from workflow_scripts.pretraining import loop
from workflow_scripts.runtime import run
from workflow_scripts.runtime.compilation import REPAID, Compiled, compile_forward, pays
from workflow_scripts.runtime.device import to_numpy
from workflow_scripts.study.config.diffusion import DiffusionRecipe

CPU, CARD = torch.device("cpu"), torch.device("cuda")


def test_networks_are_compiled_on_a_gpu_where_a_run_repays_it() -> None:
    assert pays("auto", CARD, REPAID)
    assert not pays("auto", CARD, REPAID - 1)
    assert not pays("auto", CPU, 10**9)
    assert pays("on", CPU, 1)
    assert not pays("off", CARD, 10**9)
    with pytest.raises(UserError, match=r"--compile \(or TUSFLOW_COMPILE\) is 'yes'; it must be one of auto, on, off"):
        pays("yes", CARD, 1)


def test_what_cannot_be_compiled_runs_uncompiled_after_one_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*_: Any) -> None:
            raise TorchDynamoException("no C++ compiler\nits long trace")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    layer = torch.nn.Linear(2, 1)
    ones = torch.ones(3, 2)
    expected, names = layer(ones), list(layer.state_dict())
    compile_forward(layer)
    assert torch.equal(layer(ones), expected)
    assert torch.equal(layer(ones), expected)
    assert list(layer.state_dict()) == names
    warnings = capsys.readouterr().err.splitlines()
    assert warnings == [
        "warning: Linear runs uncompiled, since torch.compile failed here (--compile off avoids it): no C++ compiler"
    ]


def test_a_gradient_that_cannot_be_compiled_is_computed_uncompiled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gradient(*_: Any) -> None:
        raise RuntimeError("no kernel for this gradient")

    backend = aot_autograd(fw_compiler=lambda graph, _: make_boxed_func(graph.forward), bw_compiler=gradient)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    layer, ones = torch.nn.Linear(2, 1), torch.ones(3, 2)
    layer(ones).sum().backward()
    expected, layer.weight.grad = layer.weight.grad, None
    compile_forward(layer)
    layer(ones).sum().backward()
    assert torch.equal(layer.weight.grad, expected)
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: Linear runs uncompiled")
    assert "no kernel for this gradient" in warning


def test_other_errors_are_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*_: Any) -> None:
            raise torch.OutOfMemoryError("full")

        return call

    monkeypatch.setattr(torch, "compile", full)
    with pytest.raises(torch.OutOfMemoryError):
        Compiled(torch.sin, "sine")(torch.ones(1))


def test_calls_of_other_shapes_are_not_compiled_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(values: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(values.shape))
            return function(values)

        return call

    monkeypatch.setattr(torch, "compile", watched)
    double = Compiled(lambda values: 2 * values, "double")
    for count in (4, 4, 3, 4):
        assert torch.equal(double(torch.ones(count)), 2 * torch.ones(count))
    assert seen == [(4,), (4,), (4,)]


# Largest |compiled - eager| / |eager|. Compiled code fuses operations in another order: a few roundings of 6e-8 each, which
# the steps of a training run add up.
TOLERANCE = 1e-4
# Compiling takes time by the kernel: the smallest networks that have every kind of layer.
# Without dropout: compiled code draws other masks from the same seed.
SMALL = {"channel_multipliers": [1], "attention_resolutions": [], "dropout": 0.0}


def assert_near(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    for name, value in expected.items():
        distance = np.linalg.norm((found[name] - value).astype(np.float64))
        assert distance <= TOLERANCE * np.linalg.norm(value.astype(np.float64)) + 1e-7, name


@pytest.mark.slow
@pytest.mark.nightly
def test_a_compiled_step_of_diffusion_training_computes_the_same() -> None:
    results = []
    for compiles in (False, True):
        model = trainer(CPU, compiles=compiles, **SMALL)
        torch.manual_seed(0)
        for parameter in model.parameters:  # a new network's branches end with zeros, which hide what lies before them
            if not parameter.detach().any():
                torch.nn.init.normal_(parameter, std=0.05)
        model.step(0)
        means = model.means(1, whole_report=False)
        # Not the weights: AdamW's first steps have the size of the learning rate even where a gradient is mere rounding.
        gradients = [to_numpy(parameter.grad).ravel() for parameter in model.parameters]
        reported = np.array([means[name] for name in ("mse", "vb", "grad_norm")])
        results.append({"means": reported, "gradients": np.concatenate(gradients)})
    assert isinstance(model.losses, Compiled)
    assert model.losses.fast is not None  # it did not fall back
    assert model.unet.forward.fast is not None
    assert_near(results[1], results[0])


@pytest.mark.slow
@pytest.mark.nightly
def test_a_compiled_step_of_pretraining_computes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = pretraining(tmp_path / "eager", CPU)
    compiled: list[nn.Module] = []
    monkeypatch.setattr(run, "pays", lambda *_: True)
    monkeypatch.setattr(loop, "compile_forward", lambda module: (compiled.append(module), compile_forward(module)))
    found = pretraining(tmp_path / "compiled", CPU)
    assert len(compiled) == 1
    assert "runs uncompiled" not in capsys.readouterr().err
    assert_near(found, expected)


@pytest.mark.slow
@pytest.mark.nightly
def test_compiled_sampling_computes_the_same() -> None:
    recipe = DiffusionRecipe(**{**DIFFUSION, **SMALL})
    process = GaussianProcess(schedule_betas("cosine", 50), kept_timesteps(50, 4, "ancestral"))
    unet, results = unet_of(recipe, 8).eval(), []
    torch.nn.init.normal_(unet.conv_out.weight, std=0.05)  # a new network predicts zero
    for compiles in (False, True):
        if compiles:
            compile_forward(unet)
        x = image_noise(0, 0, range(3), 8, CPU)
        for _, state in reverse_steps(unet, process, x, 0, range(3), 0, "ancestral"):
            x = state
        results.append({"images": to_numpy(x)})
    assert unet.forward.fast is not None
    assert_near(results[1], results[0])
