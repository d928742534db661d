"""Does it pay to distil a generator without its patients' views, or to guide it by an earlier snapshot of itself?

**Distillation** (progressive, Salimans and Ho 2022; here from noise alone): the teacher walks its DDIM path in FINE steps for
each of the student's. The student begins as the teacher and learns, at its own timesteps and on the teacher's states, the
clean image by which one DDIM step leads to where the teacher arrives. The loss has the paper's weight, max(SNR, 1). Nothing
but noise and the teacher goes in, so a student meets no patient that its teacher has not met.

**Autoguidance** (Karras et al. 2024): the noise that a snapshot predicts is extrapolated to beyond the last weights' by
WEIGHTS, at two evaluations a step.

Sets are measured as by benchmarks/sampling_steps.py, on its generator, from the same noise; the difference of the Fréchet
distance from the row `against` has a jackknife of its own, which takes the same images out of both. `to_path` is the root
mean square difference in grey levels from the teacher's path that a student was taught.

    python -m benchmarks.distillation

What is drawn and learnt stays in `--work`: a run that was interrupted continues there.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.measure import start_run, write_on_page, write_result
from benchmarks.sampling_steps import BATCH, GROUPS, PAGE, Reader, draw, markdown_row, table

if TYPE_CHECKING:
    import numpy as np
    import torch
    from diffusers import UNet2DModel

    from workflow_scripts.diffusion.process import GaussianProcess

# Evaluations of each student: its optimisation steps, and how many noises each of them walks.
STUDENTS = {8: (200, 4), 4: (150, 8)}
FINE, SEED, LEARNING_RATE, SAVE_SECONDS = 5, 1, 2e-4, 60
PLAIN = (
    ("ddim", 4),
    ("ddim", 5),
    ("ddim", 8),
    ("ddim", 10),
    ("ddim", 25),
    ("ddim", 50),
    ("dpmsolver++", 8),
    ("dpmsolver++", 25),
)
SNAPSHOT, WEIGHTS, GUIDED_STEPS = 500, (1.5, 2.0, 3.0), 25


def main() -> None:
    """Draw, distil, measure; write benchmarks/results/distillation.json and the table of docs/diffusion.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results/generator"), help="(default: results/generator)")
    parser.add_argument("--work", type=Path, default=Path("results/sampling_steps"), help="folder to continue in")
    parser.add_argument("--images", type=int, default=256, help="images of each row (default: 256)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    arguments = parser.parse_args()

    from workflow_scripts.runtime.device import select_device

    device, model = select_device("auto", arguments.threads), arguments.results / "diffusion" / "trained"
    reader = Reader(arguments.results, device)
    rows: list[dict[str, object]] = []
    found = {}
    for each in drawn_sets(model, arguments.images, arguments.work, device):
        given = reader.features(each.images)
        found[each.name, each.evaluations] = each.images, given
        row: dict[str, object] = {"sampler": each.name, "steps": each.evaluations, **reader.quality(each.images)}
        row["images_per_s"] = len(given) / each.seconds
        if each.against is not None:
            row |= {
                "against": " ".join(map(str, each.against)),
                **difference(reader.judge.reference, found[each.against][1], given),
            }
        if each.path is not None:
            row["to_path"] = rms(each.images, each.path)
            row["to_path_untaught"] = rms(found["ddim", each.evaluations][0], each.path)
        rows.append(row)
        print(markdown_row(row), {name: row[name] for name in row if "path" in name or "gain" in name}, flush=True)
    write_on_page(PAGE, "distillation", page_table(rows))
    facts = {"images": arguments.images, "fine_steps": FINE, "guiding_snapshot": SNAPSHOT, **reader.facts}
    print(write_result("distillation", rows, **facts))


def page_table(rows: list[dict[str, object]]) -> str:
    """The rows as a Markdown table, whose last column is the difference of the Fréchet distance from the row `against`."""
    lines = table(rows).splitlines()
    ends = [" difference of the distance |", "---|"]
    for row in rows:
        given = [float(row[name]) for name in ("gain", "gain_low", "gain_high") if name in row]  # type: ignore[arg-type]
        text = "{:+.3f} ({:+.3f} to {:+.3f})".format(*given) + f" from {row['against']}" if given else "–"
        ends.append(f" {text} |")
    return "\n".join(line + end for line, end in zip(lines, ends, strict=True))


class Drawn(NamedTuple):
    """A set: how many evaluations of a network each image took, images uint8 (N, S, S), the processor seconds of all; the row
    (name, evaluations) that it is compared with, and the images at the end of the path that its network was taught."""

    name: str
    evaluations: int
    images: np.ndarray
    seconds: float
    against: tuple[str, int] | None = None
    path: np.ndarray | None = None


def drawn_sets(model: Path, count: int, work: Path, device: torch.device) -> Iterator[Drawn]:
    """Each set of `count` images, as soon as it is drawn."""
    from workflow_scripts.diffusion.pipeline import load_pipeline
    from workflow_scripts.diffusion.snapshots import load_weights, snapshot_files

    teacher, betas = load_pipeline(model)
    teacher = teacher.to(device)
    for sampler, steps in PLAIN:
        yield Drawn(sampler, steps, *draw(teacher, betas, sampler, steps, count, work))
    for evaluations, (optimisation_steps, noises) in STUDENTS.items():
        path = draw_path(teacher, betas, evaluations, count, work)
        yield path
        student = distil(model, betas, evaluations, optimisation_steps, noises, work / f"student_{evaluations}", device)
        images, seconds = draw(student, betas, "ddim", evaluations, count, work / f"drawn_{evaluations}")
        yield Drawn("student", evaluations, images, seconds, ("ddim", evaluations), path.images)
    guide, _ = load_pipeline(model)
    load_weights(guide.to(device), snapshot_files(model)[SNAPSHOT])
    for sampler in ("ddim", "dpmsolver++"):
        for weight in WEIGHTS:
            network, folder = Guided(teacher, guide, weight), work / f"guided_{SNAPSHOT}_{weight:g}"
            images, seconds = draw(network, betas, sampler, GUIDED_STEPS, count, folder)
            name, against = f"{sampler}, guided by {weight:g}", (sampler, GUIDED_STEPS)
            yield Drawn(name, 2 * GUIDED_STEPS, images, seconds, against)


def processes(betas: np.ndarray, evaluations: int, device: torch.device) -> tuple[GaussianProcess, GaussianProcess]:
    """The student's process, DDIM's of so many evaluations, and the teacher's, of FINE steps for each of its strides."""
    import numpy as np

    from workflow_scripts.diffusion.process import GaussianProcess
    from workflow_scripts.diffusion.sampler import kept_timesteps

    coarse = kept_timesteps(len(betas), evaluations, "ddim")
    fine = np.arange(0, coarse[-1] + 1, coarse[1] // FINE)
    assert np.array_equal(fine[::FINE], coarse), f"{FINE} does not divide the stride of {evaluations} evaluations"
    return GaussianProcess(betas, coarse, device), GaussianProcess(betas, fine, device)


def walk(teacher: UNet2DModel, fine: GaussianProcess, noise: torch.Tensor) -> list[torch.Tensor]:
    """The teacher's path from noise (N, 1, S, S): its states at the student's timesteps, from noisy to clean, and its image."""
    from workflow_scripts.diffusion.sampler import reverse_steps

    states = [noise, *(state for _, state in reverse_steps(teacher, fine, noise, 0, range(len(noise)), 0, "ddim"))]
    return [*states[:-1][::FINE], states[-1]]


def one_step_target(coarse: GaussianProcess, x: torch.Tensor, arrival: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The clean image (N, 1, S, S) by which one DDIM step leads from x at positions t (N,) to `arrival`."""
    ratio = coarse._at("previous_noise", t) / coarse._at("noise", t)
    return (arrival - ratio * x) / (coarse._at("previous_signal", t) - ratio * coarse._at("signal", t))


def distil(
    model: Path, betas: np.ndarray, evaluations: int, steps: int, noises: int, folder: Path, device: torch.device
) -> UNet2DModel:
    """The student of a model folder, learnt from noise alone in `folder`, where an interrupted run continues."""
    import torch
    from safetensors.torch import save_file

    from workflow_scripts.diffusion.pipeline import load_pipeline
    from workflow_scripts.diffusion.sampler import image_noise
    from workflow_scripts.diffusion.snapshots import load_weights
    from workflow_scripts.runtime.run import CHECKPOINT

    teacher, student = (load_pipeline(model)[0].to(device) for _ in range(2))
    learnt = folder.with_suffix(".safetensors")
    if learnt.is_file():
        load_weights(student, learnt)
        return student
    optimiser = torch.optim.AdamW(student.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    coarse, fine = processes(betas, evaluations, device)
    run = start_run(folder)
    checkpoint = run.work.load(CHECKPOINT) or {"step": 0}
    if checkpoint["step"]:
        student.load_state_dict(checkpoint["student"])
        optimiser.load_state_dict(checkpoint["optimiser"])

    def state() -> dict[str, object]:
        return {"student": student.state_dict(), "optimiser": optimiser.state_dict()}

    # Positions of the states of a walk, from noisy to clean.
    t = torch.arange(evaluations - 1, -1, -1, device=device).repeat_interleave(noises)
    weight = (coarse._at("signal", t) / coarse._at("noise", t)).square().clamp(min=1)
    for step in run.steps(
        steps, state, start=checkpoint["step"], seconds=SAVE_SECONDS, label=f"student of {evaluations}"
    ):
        noise = image_noise(SEED, 0, range(step * noises, (step + 1) * noises), student.config.sample_size, device)
        states = walk(teacher, fine, noise)
        x = torch.cat(states[:-1])
        target = one_step_target(coarse, x, torch.cat(states[1:]), t)
        predicted = coarse.reverse(student(x, coarse.timesteps[t]).sample, x, t, clip=False)[2]
        loss = (weight * (predicted - target).square()).mean()
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * min(1, (step + 1) / 10) * (1 - step / steps)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        if step % 10 == 0:
            print(f"student of {evaluations}, step {step}: loss {loss.item():.4f}", flush=True)
    save_file(student.state_dict(), learnt)
    run.work.close()
    return student


def draw_path(teacher: UNet2DModel, betas: np.ndarray, evaluations: int, count: int, work: Path) -> Drawn:
    """The images at the end of the path that a student of so many evaluations is taught."""
    import time

    import numpy as np

    from workflow_scripts.core.files import read_json, read_npy, write_json, write_npy
    from workflow_scripts.diffusion.sampler import image_noise, to_grey

    fine = processes(betas, evaluations, teacher.device)[1]
    drawn, took = (work / f"path_{evaluations}_{count}.{kind}" for kind in ("npy", "json"))
    if not took.is_file():
        began, parts = time.process_time(), []
        for start in range(0, count, BATCH):
            images = range(start, min(start + BATCH, count))
            noise = image_noise(0, 0, images, teacher.config.sample_size, teacher.device)
            parts.append(to_grey(walk(teacher, fine, noise)[-1]))
        work.mkdir(parents=True, exist_ok=True)
        write_npy(np.concatenate(parts), drawn)
        write_json({"cpu_seconds": time.process_time() - began}, took)
    return Drawn(f"path taught to {evaluations}", len(fine), read_npy(drawn), read_json(took)["cpu_seconds"])


class Guided:
    """A network and a worse one as one network: the noise goes from the worse one's by `weight` towards the good one's."""

    def __init__(self, good: UNet2DModel, bad: UNet2DModel, weight: float) -> None:
        self.good, self.bad, self.weight = good, bad, weight
        self.config, self.device = good.config, good.device

    def __call__(self, x: torch.Tensor, timesteps: torch.Tensor) -> SimpleNamespace:
        import torch

        good, bad = (network(x, timesteps).sample for network in (self.good, self.bad))
        noise = bad[:, :1] + self.weight * (good[:, :1] - bad[:, :1])
        return SimpleNamespace(sample=torch.cat([noise, good[:, 1:]], dim=1))


def difference(reference: np.ndarray, before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """`gain`, the Fréchet distance of features `after` from the reference less that of `before`; negative is better.

    Its 95 % interval is a jackknife of GROUPS groups, each left out of both, whose images have the same noise.
    """
    import numpy as np

    from workflow_scripts.synthesis.metrics import frechet, moments

    real = moments(reference)

    def gain(chosen: np.ndarray) -> float:
        return frechet(real, moments(after[chosen])) - frechet(real, moments(before[chosen]))

    groups = np.arange(len(after)) % GROUPS
    value, left = gain(groups >= 0), np.array([gain(groups != group) for group in range(GROUPS)])
    error = float(np.sqrt((GROUPS - 1) / GROUPS * np.square(left - left.mean()).sum()))
    return {"gain": value, "gain_low": value - 1.96 * error, "gain_high": value + 1.96 * error}


def rms(images: np.ndarray, others: np.ndarray) -> float:
    """Root mean square difference of two sets uint8 (N, S, S) in grey levels."""
    import numpy as np

    return float(np.sqrt(np.square(images.astype(float) - others.astype(float)).mean()))


if __name__ == "__main__":
    main()
