"""The benchmark of distillation teaches what it says."""

from pathlib import Path

import pytest
import torch

from benchmarks import distillation
from workflow_scripts.core.errors import UserError
from workflow_scripts.diffusion.pipeline import load_pipeline, save_pipeline
from workflow_scripts.diffusion.process import schedule_betas
from workflow_scripts.diffusion.unet import build_unet

CPU = torch.device("cpu")
BETAS = schedule_betas("cosine", 100)


def test_one_ddim_step_with_the_target_arrives():
    coarse, fine = distillation.processes(BETAS, 4, CPU)
    assert len(fine) == 3 * distillation.FINE + 1
    t = torch.arange(4)
    clean, noise = torch.rand(4, 1, 8, 8) - 0.5, torch.randn(4, 1, 8, 8)
    x = coarse.q_sample(clean, t, noise)
    # Where a path arrives that did not go straight to `clean`.
    arrival = coarse.ddim_step(torch.cat([noise, noise], dim=1), x, t) + 0.01 * torch.randn(4, 1, 8, 8)
    target = distillation.one_step_target(coarse, x, arrival, t)
    assert not torch.allclose(target, clean, atol=1e-3)
    noise_of_target = (coarse._at("inverse_signal", t) * x - target) / coarse._at("noise_to_signal", t)
    arrived = coarse.ddim_step(torch.cat([noise_of_target, noise], dim=1), x, t)
    assert torch.allclose(arrived, arrival, atol=1e-4)


def test_a_resumed_student_equals_an_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    save_pipeline(build_unet(8, 32, [1], 1, [], 2, 0.0), 100, "cosine", tmp_path / "teacher")
    teacher = load_pipeline(tmp_path / "teacher")[0].state_dict()

    def student(name: str, steps: int) -> dict[str, torch.Tensor]:
        return distillation.distil(tmp_path / "teacher", BETAS, 4, steps, 2, tmp_path / name, CPU).state_dict()

    assert all(torch.equal(value, teacher[key]) for key, value in student("untaught", 0).items())
    whole = student("whole", 2)
    assert not all(torch.equal(value, teacher[key]) for key, value in whole.items())

    monkeypatch.setattr(distillation, "SAVE_SECONDS", 1e-9)
    walk, walked = distillation.walk, []

    def interrupted(*arguments: object) -> list[torch.Tensor]:
        walked.append(1)
        if len(walked) == 2:
            raise UserError("interrupted")
        return walk(*arguments)

    monkeypatch.setattr(distillation, "walk", interrupted)
    with pytest.raises(UserError, match="interrupted"):
        student("resumed", 2)
    resumed = student("resumed", 2)
    assert len(walked) == 3  # the first step, the second that failed, and that one again
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())
