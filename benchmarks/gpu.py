"""Speed, memory and use of a GPU in every stage that trains or applies a network, each beside its usual implementation.

Pretraining (batch 1024), diffusion training (batch 16), sampling, embedding and fine-tuning at 256 pixels, with the shipped
recipes. Ours and the peer run alternately in this one process, the peer as its users run it: eager and in float32 (TF32 as
PyTorch has it by default). Peers: torchvision's transforms image by image with lightly's loss; the loop of Diffusers'
examples; clean-fid's folder loop; a DataLoader of PNG files with torchvision's transforms.

The share of the peak relates the operations that PyTorch counts in the network to what a large matrix product or
convolution reaches on this device in the same arithmetic, whichever is faster. `seconds_by_kind` is one profiled call of
ours; `idle` is the part of it in which the GPU had nothing to do. `tera_operations_per_s` are what the cost plan
(`python -m workflow_scripts.tools.plan`) reckons with: `--write-plan` puts them into its table.

    python -m benchmarks.gpu            # at most nine minutes on a GPU
    python -m benchmarks.gpu --tiny     # small networks and views, on any device: how the tests run it
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import diffusion, embedding, finetuning, pretraining_step
from benchmarks.measure import large_convolution, matrix_product, peak_memory_mib, start_run, wait, write_result
from workflow_scripts.tools.plan import THROUGHPUTS

MINUTES = 9.0
# Parts of PyTorch's names of operators and kernels, by kind; the first that fits.
KINDS = {
    "convolution": ("conv", "cudnn", "xmma", "implicit"),
    "attention": ("attention", "flash", "fmha"),
    "norm": ("norm",),
    "matrix product": ("addmm", "::mm", "::bmm", "matmul", "gemm"),
    "optimiser": ("adam", "sgd", "foreach", "lerp"),
    "copy": ("copy", "memcpy", "memset"),
}


@dataclass(frozen=True)
class Task:
    """One stage: functions of ours and of the peer, the images of a call of each, operations per image.

    `rule` is the stage that the cost plan knows; `arithmetic` that of ours.
    """

    rule: str
    sides: Mapping[str, Callable[[], Any]]
    images: Mapping[str, int]
    operations: float
    arithmetic: str
    facts: dict[str, Any] = field(default_factory=dict)


def counted(function: Callable[[], Any]) -> float:
    """Operations that PyTorch counts in a call."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        function()
    return float(counter.get_total_flops())


def pretraining(device: Any, tiny: bool, _folder: Path) -> Task:
    """A step: read, draw both views of every image, both losses, backward, optimiser."""
    import numpy as np

    from workflow_scripts.networks.backbone import create_backbone
    from workflow_scripts.pretraining.loop import make_encoder
    from workflow_scripts.pretraining.mix import ViewUnion
    from workflow_scripts.study.config.pretraining import PretrainingRecipe

    side, batch, backbone = (32, 8, "test_resnet") if tiny else (256, 1024, "resnet18")
    recipe = PretrainingRecipe(batch_size=batch)
    store = np.random.default_rng(0).integers(0, 256, (2 * batch, side, side), dtype=np.uint8)
    views = ViewUnion([store], [np.arange(2 * batch)], [np.arange(2 * batch) % 2])
    encoder = make_encoder(create_backbone(backbone, 0), 2, views, recipe)
    ours = pretraining_step.product_step(encoder, views, recipe, device)
    peer = pretraining_step.peer_step(views, 2, recipe, backbone, device)
    sides = {"ours": ours, "torchvision, lightly, SGD": peer}
    kind = "bf16" if _has_bf16(device) else "float32"
    return Task("pretrain", sides, dict.fromkeys(sides, batch), counted(ours) / batch, kind, {"side": side})


def _diffusion(task: str, rule: str, device: Any, tiny: bool) -> Task:
    import torch

    from workflow_scripts.diffusion.training import unet_of
    from workflow_scripts.runtime.device import Precision
    from workflow_scripts.study.config.diffusion import DiffusionRecipe

    small = {"base_channels": 32, "channel_multipliers": [1, 1], "attention_resolutions": [16], "batch_size": 2}
    recipe = DiffusionRecipe(**(small if tiny else {}))
    side, steps = (32, 2) if tiny else (256, 10)
    batch = recipe.batch_size
    unet = unet_of(recipe, side).to(device)
    x, t = torch.randn(batch, 1, side, side, device=device), torch.zeros(batch, dtype=torch.int64, device=device)
    training = task == "training"
    operations = (1 if training else steps) * diffusion.operations(unet.train(training), x, t, training) / batch
    sides = diffusion.sides_of(task, recipe, side, steps, device)
    facts = {"side": side, "batch_size": batch, **({} if training else {"sampling_steps": steps})}
    kind = Precision(recipe.precision, device).name
    return Task(rule, sides, dict.fromkeys(sides, batch), operations, kind, facts)


def diffusion_training(device: Any, tiny: bool, _folder: Path) -> Task:
    """A step of diffusion training."""
    return _diffusion("training", "train_diffusion", device, tiny)


def sampling(device: Any, tiny: bool, _folder: Path) -> Task:
    """A batch of images in a few ancestral steps."""
    return _diffusion("sampling", "sample_shard", device, tiny)


def embed(device: Any, tiny: bool, folder: Path) -> Task:
    """Features of the FID's network, in full float32; ours reads a store, clean-fid decodes PNG files."""
    images, batch = (1, 1) if tiny else (512, 64)
    operations = embedding.prepare(folder, images, 256)
    sides = embedding.sides(folder, batch, 1)
    return Task("embed", sides, dict.fromkeys(sides, images), operations, "float32", {"batch_size": batch})


def finetune(device: Any, tiny: bool, folder: Path) -> Task:
    """Epochs of a fold: ours, and the same network and optimiser behind a DataLoader of PNG files."""
    import numpy as np
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, TensorDataset

    from workflow_scripts.networks.backbone import Classifier, create_backbone
    from workflow_scripts.networks.cross_validation import CrossValidation, train_fold
    from workflow_scripts.runtime.device import to_device
    from workflow_scripts.study.config.finetuning import FinetuningRecipe

    side, count, backbone = (32, 12, "test_resnet") if tiny else (256, 880, "resnet18")
    recipe = FinetuningRecipe(epochs=1, **({"batch_size": 4} if tiny else {}))
    views = np.random.default_rng(0).integers(0, 256, (count, side, side), dtype=np.uint8)
    labels, folds = np.arange(count) % 2, np.arange(count) % 3
    task = CrossValidation(to_device(views, device), {0: labels}, folds, recipe, 0)
    learnt, runs = task.training(0), iter(range(10**6))

    def ours() -> None:
        work = start_run(folder / f"work{next(runs)}", device.type)
        train_fold(Classifier(create_backbone(backbone), 0), task, 0, work)
        wait(device)

    files = [folder / f"{row}.png" for row in learnt]
    for file, row in zip(files, learnt, strict=True):
        Image.fromarray(views[row]).save(file)
    data = finetuning.OneAtATime(files, recipe.augmentation.model_dump())
    targets = torch.from_numpy(labels[learnt])

    def peer() -> None:
        model = Classifier(create_backbone(backbone), 0).to(device).train()
        optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.head_lr)
        order = TensorDataset(torch.randperm(len(data), generator=torch.Generator().manual_seed(0)))
        for (rows,) in DataLoader(order, recipe.batch_size):
            images = torch.stack([data[int(row)] for row in rows]).to(device)
            loss = torch.nn.functional.cross_entropy(model(images), targets[rows].to(device))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        wait(device)

    sides = {"ours": ours, "PNG files, torchvision, AdamW": peer}
    model = Classifier(create_backbone(backbone), 0)
    pixels = torch.zeros(2, 3, side, side)
    operations = counted(lambda: model(pixels).sum().backward()) / 2
    kind = "bf16" if _has_bf16(device) else "float32"
    return Task("finetune", sides, dict.fromkeys(sides, len(learnt)), operations, kind, {"side": side, "views": count})


TASKS: dict[str, Callable[[Any, bool, Path], Task]] = {
    "pretraining": pretraining,
    "diffusion training": diffusion_training,
    "sampling": sampling,
    "embedding": embed,
    "fine-tuning": finetune,
}


def alternately(functions: Mapping[str, Callable[[], Any]], seconds: float, least: int) -> dict[str, list[float]]:
    """Seconds of the calls of each function in turn, after one each that is not counted, until the time is over."""
    taken: dict[str, list[float]] = {name: [] for name in functions}
    started = time.perf_counter()
    for function in functions.values():
        function()
    while min(map(len, taken.values())) < least or time.perf_counter() - started < seconds:
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            taken[name].append(time.perf_counter() - start)
    return taken


def by_kind(function: Callable[[], Any], device: Any) -> dict[str, float]:
    """Seconds of one call by kind of operator, and those in which the device was idle."""
    from torch.profiler import ProfilerActivity, profile

    gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]) as profiler:
        start = time.perf_counter()
        function()
        wait(device)
        seconds = time.perf_counter() - start
    spent = dict.fromkeys([*KINDS, "rest"], 0.0)
    for event in profiler.key_averages():
        own = event.self_device_time_total if gpu else event.self_cpu_time_total
        kind = next((kind for kind, parts in KINDS.items() if any(part in event.key.lower() for part in parts)), "rest")
        spent[kind] += own / 1e6
    return {**spent, "idle": max(0.0, seconds - sum(spent.values()))}


def measure(name: str, task: Task, device: Any, seconds: float, least: int) -> Iterator[dict[str, Any]]:
    """The rows of a stage: speed, share of the peak and peak memory of ours and of the peer; `least` calls of each."""
    import torch

    gpu = device.type == "cuda"
    kinds = {method: task.arithmetic if method == "ours" else "float32" for method in task.sides}
    limits = {
        f"{limit}, {kind}": make(device, kind)
        for limit, make in (("matrix product", matrix_product), ("convolution", large_convolution))
        for kind in set(kinds.values())
    }
    memory = {}
    for method, function in task.sides.items():
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        function()
        memory[method] = torch.cuda.max_memory_allocated() / 2**20 if gpu else peak_memory_mib()
    times = alternately({**task.sides, **{limit: call for limit, (call, _) in limits.items()}}, seconds, least)
    rates = {limit: operations / statistics.median(times[limit]) for limit, (_, operations) in limits.items()}
    for method in task.sides:
        taken = times[method]
        speed = task.images[method] / statistics.median(taken)
        peak = max(rate for limit, rate in rates.items() if limit.endswith(kinds[method]))
        yield {
            "task": name, "method": method, "rule": task.rule, "arithmetic": kinds[method], "images_per_s": speed,
            "images_per_s_min": task.images[method] / max(taken), "images_per_s_max": task.images[method] / min(taken),
            "repeats": len(taken), "tera_operations_per_s": task.operations * speed / 1e12,
            "share_of_peak": task.operations * speed / peak, "peak_operations_per_s": peak,
            "peak_memory_mib": memory[method], **task.facts,
            "seconds_by_kind": by_kind(task.sides[method], device) if method == "ours" else {},
        }  # fmt: skip


def _has_bf16(device: Any) -> bool:
    import torch

    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print, write benchmarks/results/gpu.json (not where `--tiny` only tries it out)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="(default: all)")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"of all tasks together (default: {MINUTES:g})")
    parser.add_argument(
        "--tiny", action="store_true", help="small networks and views, on any device; nothing is written"
    )
    parser.add_argument(
        "--write-plan", action="store_true", help="also put the measured throughputs into the cost plan"
    )
    arguments = parser.parse_args(argv)

    import torch

    from workflow_scripts.runtime.device import select_device

    if not (arguments.tiny or torch.cuda.is_available()):
        parser.error("this machine has no GPU that PyTorch can use; --tiny tries the benchmark out without one")
    device = select_device("auto", torch.get_num_threads())
    rows: list[dict[str, Any]] = []
    least = 1 if arguments.tiny else 3
    end = time.perf_counter() + 60 * arguments.minutes
    for number, name in enumerate(arguments.tasks):
        # Half of a task's time is for making its networks, the peer's first call and the profile.
        share = max(0.0, end - time.perf_counter()) / (len(arguments.tasks) - number) / 2
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
            for row in measure(name, TASKS[name](device, arguments.tiny, Path(folder)), device, share, least):
                rows.append(row)
                print(
                    f"{name:20}{row['method']:32}{row['arithmetic']:9}{row['images_per_s']:10.1f} images/s"
                    f"{100 * row['share_of_peak']:6.1f} % of the peak{row['peak_memory_mib']:9.0f} MiB", flush=True,
                )  # fmt: skip
        if device.type == "cuda":
            torch.cuda.empty_cache()
    if not arguments.tiny:
        print(write_result("gpu", rows, minutes=arguments.minutes, device=torch.cuda.get_device_name()))
    if arguments.write_plan:
        write_plan(rows, torch.cuda.get_device_name(), THROUGHPUTS)
    return rows


def write_plan(rows: list[dict[str, Any]], device: str, path: Path) -> None:
    """Put our throughputs into the cost plan's table, which holds them by device and stage."""
    table = json.loads(path.read_text(encoding="utf-8"))
    ours = {row["rule"]: round(row["tera_operations_per_s"], 3) for row in rows if row["method"] == "ours"}
    table[device] = {**table.get(device, {}), **ours}
    path.write_text(json.dumps(table, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
