"""Images per second of training and sampling, beside the plain Diffusers loop on the same U-Net, in the same run.

The peer is what Diffusers' own unconditional example does, eager and in float32: `DDPMScheduler.add_noise`, mean squared
error, AdamW, `EMAModel`; and `DDPMScheduler.step` to sample. It has no loss for the learned variance, so it computes
less than we do. The share of the peak relates the operations that PyTorch counts in the U-Net to what a large matrix
product or convolution, the faster, reaches on the same device in the arithmetic that each of the two uses.

    python -m benchmarks.diffusion                     # a GPU: the paper's model at 256 pixels; a CPU: a small one at 64
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from benchmarks.measure import large_convolution, matrix_product, memory_of_each, paired, wait, write_result

TASKS = ("training", "sampling")


def operations(unet: Any, x: Any, t: Any, backward: bool) -> float:
    """Operations that PyTorch counts in one forward (and backward) pass."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backward):
        output = unet(x, t).sample
        if backward:
            output.sum().backward()
    return float(counter.get_total_flops())


def plain_training(recipe: Any, views: Any, device: Any) -> Callable[[], None]:
    """One step of the plain loop."""
    import torch
    from diffusers import DDPMScheduler
    from diffusers.training_utils import EMAModel

    from workflow_scripts.diffusion.training import unet_of

    unet = unet_of(recipe, views.shape[1]).to(device).train()
    average = EMAModel(unet.parameters(), decay=recipe.ema)
    optimiser = torch.optim.AdamW(unet.parameters(), lr=recipe.lr, weight_decay=0.0)
    scheduler = DDPMScheduler(recipe.timesteps, beta_schedule="squaredcos_cap_v2")
    images = torch.from_numpy(views).float().div(127.5).sub(1)[:, None]
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        rows = torch.randint(len(images), (recipe.batch_size,), generator=generator)
        x0 = images[rows].to(device)
        noise = torch.randn_like(x0)
        t = torch.randint(recipe.timesteps, (len(x0),), device=device)
        predicted = unet(scheduler.add_noise(x0, noise, t), t).sample[:, :1]
        torch.nn.functional.mse_loss(predicted, noise).backward()
        optimiser.step()
        optimiser.zero_grad()
        average.step(unet.parameters())
        wait(device)

    return step


def plain_sampling(unet: Any, recipe: Any, batch: int, steps: int, device: Any) -> Callable[[], None]:
    """A batch of images by the plain loop."""
    import torch
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(
        recipe.timesteps, beta_schedule="squaredcos_cap_v2", variance_type="learned_range",
        timestep_spacing="linspace",
    )  # fmt: skip
    scheduler.set_timesteps(steps)

    def draw() -> None:
        x = torch.randn(batch, 1, unet.config.sample_size, unet.config.sample_size, device=device)
        with torch.no_grad():
            for t in scheduler.timesteps:
                x = scheduler.step(unet(x, t.to(device)).sample, t, x).prev_sample
        wait(device)

    return draw


def sizes(gpu: bool) -> tuple[Any, int, int]:
    """Settings, side and sampling steps: the paper's model on a GPU, a small one elsewhere."""
    from workflow_scripts.study.config.diffusion import DiffusionRecipe

    small = {"base_channels": 32, "channel_multipliers": [1, 2, 4], "attention_resolutions": [16], "batch_size": 8}
    recipe = DiffusionRecipe(**({} if gpu else small))
    return recipe, *((256, 10) if gpu else (64, 4))


def sides(task: str, threads: int) -> dict[str, Callable[[], None]]:
    """Our step of `training`, or batch of `sampling`, and the plain loop's."""
    from workflow_scripts.runtime.device import select_device

    device = select_device("auto", threads)
    return sides_of(task, *sizes(device.type == "cuda"), device)


def sides_of(task: str, recipe: Any, side: int, steps: int, device: Any) -> dict[str, Callable[[], None]]:
    """The same for a recipe, a side of the views and a number of sampling steps."""
    import numpy as np

    from workflow_scripts.diffusion.process import GaussianProcess, schedule_betas, spaced_timesteps
    from workflow_scripts.diffusion.sampler import image_noise, reverse_steps
    from workflow_scripts.diffusion.training import Trainer, TrainingViews, unet_of
    from workflow_scripts.runtime.processes import Processes

    batch = recipe.batch_size
    views = np.random.default_rng(0).integers(0, 256, (64, side, side), dtype=np.uint8)
    trainer = Trainer(TrainingViews(views, np.arange(len(views))), recipe, device, Processes())
    if task == "training":
        done = 0

        def our_step() -> None:
            nonlocal done
            trainer.step(done)
            done += 1
            wait(device)

        return {"ours": our_step, "plain Diffusers": plain_training(recipe, views, device)}

    unet = unet_of(recipe, side).to(device).eval()
    ours = unet_of(recipe, side).to(device, memory_format=trainer.layout).eval()
    betas = schedule_betas("cosine", recipe.timesteps)
    process = GaussianProcess(betas, spaced_timesteps(len(betas), steps), device)

    def our_draw() -> None:
        x = image_noise(0, 0, range(batch), side, device)
        for _ in reverse_steps(ours, process, x, 0, range(batch), 0, "ancestral"):
            pass
        wait(device)

    return {"ours": our_draw, "plain Diffusers": plain_sampling(unet, recipe, batch, steps, device)}


def main() -> None:
    """Measure, print, write benchmarks/results/diffusion.json (or diffusion_gpu.json)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--repeats", type=int, default=7, help="(default: 7)")
    arguments = parser.parse_args()
    memory = {task: memory_of_each("benchmarks.diffusion", task, arguments.threads) for task in TASKS}

    import torch

    from workflow_scripts.diffusion.training import unet_of
    from workflow_scripts.runtime.device import Precision, select_device

    device = select_device("auto", arguments.threads)
    gpu = device.type == "cuda"
    recipe, side, steps = sizes(gpu)
    batch = recipe.batch_size
    unet = unet_of(recipe, side).to(device)
    x, t = torch.randn(batch, 1, side, side, device=device), torch.zeros(batch, dtype=torch.int64, device=device)
    counted = {
        "training": operations(unet, x, t, backward=True) / batch,
        "sampling": steps * operations(unet.eval(), x, t, backward=False) / batch,
    }
    kinds = {"ours": Precision(recipe.precision, device).name, "plain Diffusers": "float32"}
    rows, peaks = [], {}
    for task in TASKS:
        functions = sides(task, arguments.threads)
        limits = {
            f"{name}, {kind}": measure(device, kind)
            for name, measure in (("matrix product", matrix_product), ("convolution", large_convolution))
            for kind in set(kinds.values())
        }
        times = paired(functions | {name: one for name, (one, _) in limits.items()}, arguments.repeats)
        peaks[task] = {name: count / times[name]["seconds_median"] for name, (_, count) in limits.items()}
        for method in functions:
            speed = batch / times[method]["seconds_median"]
            share = (
                counted[task] * speed / max(peak for name, peak in peaks[task].items() if name.endswith(kinds[method]))
            )
            rows.append({
                "task": task, "method": method, "arithmetic": kinds[method], "images_per_s": speed,
                "share_of_peak": share, "peak_memory_mib": memory[task][method], **times[method],
            })  # fmt: skip
            print(f"{task:9} {method:16} {kinds[method]:8} {speed:8.2f} images/s {100 * share:5.1f} % of the peak")
    parameters = sum(parameter.numel() for parameter in unet.parameters())
    facts = {"side": side, "batch_size": batch, "sampling_steps": steps, "parameters": parameters}
    facts |= {"threads": arguments.threads, "operations_per_image": counted, "peak_operations_per_s": peaks}
    print(write_result("diffusion_gpu" if gpu else "diffusion", rows, **facts))


if __name__ == "__main__":
    main()
