"""The U-Net's architecture rules, its initialisation, and the import of guided-diffusion checkpoints."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline
from safetensors.torch import load_file

from tests.shared import SHARED, needs_golden
from workflow_scripts.core.errors import UserError
from workflow_scripts.diffusion import import_guided_diffusion
from workflow_scripts.diffusion.pipeline import load_pipeline
from workflow_scripts.diffusion.unet import architecture, build_unet, import_state, infer_architecture
from workflow_scripts.runtime.cli import run

SMALL: dict[str, Any] = {
    "size": 16,
    "base_channels": 32,
    "channel_multipliers": [1, 2],
    "residual_blocks": 1,
    "attention_resolutions": [8],
    "heads": 4,
    "dropout": 0.0,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 18, "channel_multipliers": [1, 1, 2], "attention_resolutions": []}, "must be a multiple of 4"),
        ({"base_channels": 40, "attention_resolutions": []}, "multiple of 32"),
        ({"attention_resolutions": [32]}, r"no level has that side.*\[16, 8\]"),
        ({"heads": 5}, "do not divide into 5 heads"),
        ({"attention_resolutions": [16], "heads": 1}, "32 channels do not divide into attention heads of 64"),
    ],
)
def test_impossible_architectures_are_refused(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        architecture(**{**SMALL, **change})


def test_the_papers_model_attends_at_16_and_8_with_four_heads() -> None:
    plan = architecture(256, 128, [1, 1, 2, 2, 4, 4], 2, [16, 8], 4, 0.0)
    assert plan.attends == (False, False, False, False, True, True)
    assert plan.channels == (128, 128, 256, 256, 512, 512)
    assert plan.head_size == 128


def test_levels_of_different_width_attend_with_heads_of_one_size() -> None:
    unet = build_unet(**{**SMALL, "attention_resolutions": [16, 8]})
    heads = {name: module.heads for name, module in unet.named_modules() if hasattr(module, "heads")}
    assert heads["down_blocks.0.attentions.0"] == 2
    assert heads["down_blocks.1.attentions.0"] == heads["mid_block.attentions.0"] == 4


def test_a_fresh_unet_predicts_zero() -> None:
    unet = build_unet(**SMALL)
    output = unet(torch.randn(2, 1, 16, 16), torch.tensor([0, 9])).sample
    assert output.shape == (2, 2, 16, 16)
    assert float(output.detach().abs().max()) == 0


def golden_state(name: str) -> tuple[dict[str, torch.Tensor], dict]:
    folder = SHARED / "golden"
    return load_file(folder / f"unet_{name}.safetensors"), json.loads((folder / f"unet_{name}.json").read_text())


@needs_golden
def test_every_key_must_fit() -> None:
    state, _ = golden_state("classcond")
    plan = infer_architecture(state, 32, heads=4)
    with pytest.raises(UserError, match=r"1 keys of the state dict fit nowhere.*extra\.weight"):
        import_state({**state, "extra.weight": torch.zeros(1)}, plan)
    for lost in ("middle_block.1.qkv.bias", "input_blocks.1.0.out_layers.3.weight", "time_embed.0.bias"):
        with pytest.raises(UserError, match=r"does not fit|fit nowhere"):
            import_state({key: value for key, value in state.items() if key != lost}, plan)
    with pytest.raises(UserError, match="give either"):
        infer_architecture(state, 32)
    with pytest.raises(UserError, match="64 channels do not divide into 5 heads"):
        infer_architecture(state, 32, heads=5)
    with pytest.raises(UserError, match="not the state dict of a guided-diffusion U-Net"):
        infer_architecture({"conv1.weight": torch.zeros(1)}, 32, heads=4)
    with pytest.raises(UserError, match=r"1 channels to 1.*learn_sigma"):
        infer_architecture({**state, "out.2.weight": state["out.2.weight"][:1]}, 32, heads=4)


@needs_golden
def test_import_command_writes_a_folder_that_computes_the_same(tmp_path: Path) -> None:
    state, _ = golden_state("default")
    torch.save(state, tmp_path / "ema.pt")
    command = [
        "--input",
        str(tmp_path / "ema.pt"),
        "--size",
        "32",
        "--heads",
        "4",
        "--output-model",
        str(tmp_path / "model"),
    ]
    run(import_guided_diffusion.main, import_guided_diffusion.parser(), command)
    unet, betas = load_pipeline(tmp_path / "model")
    io = {key: torch.from_numpy(value) for key, value in np.load(SHARED / "golden" / "unet_default_io.npz").items()}
    with torch.no_grad():
        torch.testing.assert_close(unet(io["x"], io["t"]).sample, io["y"], atol=1e-4, rtol=1e-4)
    assert len(betas) == 1000
    assert DDPMPipeline.from_pretrained(tmp_path / "model").scheduler.config.variance_type == "learned_range"


class Executed:
    """Unpickling it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Files that are no checkpoint, and what is said of each."""
    torch.save({"a.weight": torch.zeros(100_000)}, folder / "whole.pt")
    contents = {
        "truncated": (
            (folder / "whole.pt").read_bytes()[:2000],
            "not a checkpoint of plain tensors, or it is truncated",
        ),
        "text": (b"hello world", "not a checkpoint of plain tensors"),
        "empty": (b"", "not a checkpoint of plain tensors"),
    }
    objects = {
        "code": (Executed(folder / "mark"), "nothing of it was executed"),
        "list": ([torch.zeros(1)], "not a state dict"),
        "nested": ({"model": {"a.weight": torch.zeros(1)}}, "not a state dict"),
        "numbers": ({1: torch.zeros(1)}, "not a state dict"),
        "nan": ({"a.weight": torch.full((1,), torch.nan)}, "a.weight holds values that are not finite"),
        "other": ({"a.weight": torch.zeros(1)}, "not the state dict of a guided-diffusion U-Net"),
    }
    for name, (content, _) in contents.items():
        (folder / f"{name}.pt").write_bytes(content)
    for name, (value, _) in objects.items():
        torch.save(value, folder / f"{name}.pt")
    found = {name: (folder / f"{name}.pt", message) for name, (_, message) in {**contents, **objects}.items()}
    return {**found, "folder": (folder, "is not a file"), "missing": (folder / "no.pt", "is not a file")}


def test_import_says_in_one_sentence_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, (file, message) in bad_files(tmp_path).items():
        command = ["--input", str(file), "--size", "32", "--heads", "4", "--output-model", str(tmp_path / "model")]
        with pytest.raises(SystemExit):
            run(import_guided_diffusion.main, import_guided_diffusion.parser(), command)
        said = capsys.readouterr().err
        assert message in said, name
        assert said.count("\n") == 1, said
    assert not (tmp_path / "mark").exists()


def test_import_refuses_pickles_and_foreign_outputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": Path}, tmp_path / "code.pt")
    command = ["--input", str(tmp_path / "code.pt"), "--size", "32", "--heads", "4", "--output-model"]
    with pytest.raises(SystemExit):
        run(import_guided_diffusion.main, import_guided_diffusion.parser(), [*command, str(tmp_path / "model")])
    assert "not a checkpoint of plain tensors" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(import_guided_diffusion.main, import_guided_diffusion.parser(), [*command, str(tmp_path)])
    assert "exists and is not a diffusion model" in capsys.readouterr().err
    assert (tmp_path / "code.pt").exists()
