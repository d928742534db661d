"""A whole step of contrastive pretraining: images per second, share of the machine's peak, and where the time goes.

Ours is the product's step: read the views, draw both views of every image on the device, both losses, backward, LARS. The
peer draws its views image by image with torchvision v2, as the usual data loader does (here without its worker processes),
and trains the same network with lightly's NTXentLoss and torch's SGD, in float32.

The share of the peak relates the operations that PyTorch counts in network, head and loss to what a large matrix product or
a large convolution reaches on the same device, whichever is faster. Batch norm and ReLU do next to no arithmetic: their
bound is the time in which the machine can move what they must read and write (batch norm 3 passes over its input forward
and 5 backward, ReLU 2 and 3).

    python -m benchmarks.pretraining_step       # a GPU: batch 1024 at 256 pixels; a CPU: batch 32 at 96 pixels
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.augmentation import torchvision_view
from benchmarks.measure import (
    large_convolution,
    matrix_product,
    memory_bandwidth,
    memory_of_each,
    paired,
    peak_memory_mib,
    wait,
    write_result,
)

# Names of PyTorch's operators, in parts, by kind; the first that fits.
KINDS = {
    "convolution": ("conv",),
    "batch norm": ("batch_norm",),
    "ReLU": ("relu", "clamp_min", "threshold"),
    "matrix product": ("addmm", "::mm", "matmul"),
    "pooling": ("pool",),
}
BATCH_NORM_PASSES, RELU_PASSES = 3 + 5, 2 + 3


def product_step(encoder: Any, views: Any, recipe: Any, device: Any) -> Callable[[], float]:
    """The product's step, each call the next one; it returns the loss, for which a GPU is waited for."""
    import torch

    from workflow_scripts.pretraining.augmentation import augment_pairs, view_recipes
    from workflow_scripts.pretraining.contrastive_step import compute_gradients
    from workflow_scripts.pretraining.loop import draw_step
    from workflow_scripts.pretraining.optimisers import learning_rate, make_optimiser
    from workflow_scripts.runtime.device import Ahead, to_device
    from workflow_scripts.runtime.processes import Processes

    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    encoder.to(device).to(memory_format=layout).train()
    optimiser = make_optimiser([encoder], recipe.optimiser, recipe.lr, recipe.weight_decay)
    processes, done = Processes(), 0
    drawn = Ahead(partial(draw_step, views, recipe, slice(None)), device, recipe.steps)

    def step() -> float:
        nonlocal done
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(done, recipe.steps, recipe.lr, recipe.warmup)
        batch = drawn(done)
        images = to_device(batch["images"], device)
        with torch.profiler.record_function("augmentation"):
            pairs = augment_pairs(images, view_recipes(recipe.augmentation), batch["numbers"])
        optimiser.zero_grad()
        losses = compute_gradients(encoder, pairs, to_device(batch["organs"], device), recipe, processes)
        optimiser.step()
        done += 1
        return losses.total.item()

    return step


def peer_step(views: Any, organs: int, recipe: Any, backbone: str, device: Any) -> Callable[[], None]:
    """The plain loop: torchvision v2 image by image, lightly's loss, torch's SGD."""
    import torch
    from lightly.loss import NTXentLoss

    from workflow_scripts.networks.backbone import create_backbone, standardise
    from workflow_scripts.pretraining.loop import make_encoder

    encoder = make_encoder(create_backbone(backbone, 0), organs, views, recipe).to(device).train()
    transforms = torchvision_view(recipe.augmentation, views.stores[0].shape[1])
    contrast = NTXentLoss(temperature=recipe.temperature)
    optimiser = torch.optim.SGD(encoder.parameters(), 0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        rows = torch.randint(len(views), (recipe.batch_size,), generator=generator).numpy()
        images = [torch.from_numpy(view)[None].float() / 255 for view in views.take(rows)]
        pairs = torch.stack([transforms(image) for image in images] + [transforms(image) for image in images])
        embeddings, logits = encoder(standardise(pairs.to(device)))
        targets = torch.from_numpy(views.organs[rows]).to(device).repeat(2)
        loss = contrast(*embeddings.chunk(2)) + recipe.organ_weight * torch.nn.functional.cross_entropy(logits, targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        wait(device)

    return step


def seconds_by_kind(step: Callable[[], object], device: Any) -> dict[str, float]:
    """Seconds of one step by kind of operator, as PyTorch's profiler sees them on the device."""
    from torch.profiler import ProfilerActivity, profile

    gpu = device.type == "cuda"
    step()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]) as profiler:
        step()
    seconds = dict.fromkeys(["augmentation", *KINDS, "rest"], 0.0)
    for event in profiler.events():
        within, ancestor = False, event
        while ancestor is not None:
            within, ancestor = within or ancestor.name == "augmentation", ancestor.cpu_parent
        name = event.name.lower()
        kind = next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), "rest")
        own = event.self_device_time_total if gpu else event.self_cpu_time_total
        seconds["augmentation" if within else kind] += own / 1e6
    return seconds


def moved_bytes(encoder: Any, pairs: Any, bytes_each: int) -> dict[str, float]:
    """What batch norm and ReLU must at least read and write in a step, counted in a forward pass."""
    import torch

    from workflow_scripts.networks.backbone import standardise

    counts = {"batch norm": 0.0, "ReLU": 0.0}

    def count(kind: str, passes: int) -> Callable[..., None]:
        def hook(_module: Any, inputs: Any, _output: Any) -> None:
            counts[kind] += passes * inputs[0].numel() * bytes_each

        return hook

    handles = []
    for module in encoder.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            handles.append(module.register_forward_hook(count("batch norm", BATCH_NORM_PASSES)))
        elif isinstance(module, torch.nn.ReLU):
            handles.append(module.register_forward_hook(count("ReLU", RELU_PASSES)))
    with torch.no_grad():
        encoder(standardise(pairs.flatten(0, 1)))
    for handle in handles:
        handle.remove()
    return counts


def study(gpu: bool) -> tuple[Any, Any]:
    """Views of two organs, and the recipe: batch 1024 at 256 pixels on a GPU, batch 32 at 96 pixels elsewhere."""
    import numpy as np

    from workflow_scripts.pretraining.mix import ViewUnion
    from workflow_scripts.study.config.pretraining import PretrainingRecipe

    side, batch = (256, 1024) if gpu else (96, 32)
    recipe = PretrainingRecipe(batch_size=batch)
    store = np.random.default_rng(0).integers(0, 256, (2 * batch, side, side), dtype=np.uint8)
    return ViewUnion([store], [np.arange(2 * batch)], [np.arange(2 * batch) % 2]), recipe


def sides(backbone: str, threads: int) -> dict[str, Callable[[], object]]:
    """Our step and the peer's."""
    from workflow_scripts.networks.backbone import create_backbone
    from workflow_scripts.pretraining.loop import make_encoder
    from workflow_scripts.runtime.device import select_device

    device = select_device("auto", threads)
    views, recipe = study(device.type == "cuda")
    encoder = make_encoder(create_backbone(backbone, 0), 2, views, recipe)
    return {
        "ours": product_step(encoder, views, recipe, device),
        "torchvision, lightly, SGD": peer_step(views, 2, recipe, backbone, device),
    }


def main() -> None:
    """Measure, print, write benchmarks/results/pretraining_step.json (or pretraining_step_gpu.json)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18", help="timm network (default: resnet18)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--repeats", type=int, default=5, help="(default: 5)")
    arguments = parser.parse_args()
    memory = memory_of_each("benchmarks.pretraining_step", arguments.backbone, arguments.threads)

    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from workflow_scripts.networks.backbone import create_backbone
    from workflow_scripts.pretraining.loop import make_encoder
    from workflow_scripts.runtime.device import autocast, select_device

    device = select_device("auto", arguments.threads)
    gpu = device.type == "cuda"
    views, recipe = study(gpu)
    side, batch = views.stores[0].shape[1], recipe.batch_size
    functions = sides(arguments.backbone, arguments.threads)
    our_step = functions["ours"]
    with FlopCounterMode(display=False) as counter:
        our_step()
    with autocast(device):
        kind = "bf16" if torch.is_autocast_enabled(device.type) else "float32"
    kinds = {"ours": kind, "torchvision, lightly, SGD": "float32"}
    limits = {
        f"{name}, {arithmetic}": make(device, arithmetic)
        for arithmetic in {kind, "float32"}
        for name, make in (("matrix product", matrix_product), ("convolution", large_convolution))
    }
    rows = []
    # In turn with what measures the peak, so that a busy minute of the machine slows both.
    times = paired(functions | {name: one for name, (one, _) in limits.items()}, arguments.repeats)
    peaks = {name: operations / times[name]["seconds_median"] for name, (_, operations) in limits.items()}
    for method, arithmetic in kinds.items():
        measured = times[method]
        speed = batch / measured["seconds_median"]
        peak = max(value for name, value in peaks.items() if name.endswith(arithmetic))
        share = counter.get_total_flops() / measured["seconds_median"] / peak
        rows.append({
            "method": method, "arithmetic": arithmetic, "images_per_s": speed, "share_of_peak": share,
            "peak_memory_mib": memory[method], **measured,
        })  # fmt: skip
        print(f"{method:28}{arithmetic:8}{speed:8.1f} images/s {100 * share:5.1f} % of the peak")
    encoder = make_encoder(create_backbone(arguments.backbone, 0), 2, views, recipe).to(device)
    bandwidth = memory_bandwidth(device)
    pairs = torch.zeros(2, batch, 1, side, side, device=device)
    bounds = {
        name: moved / bandwidth for name, moved in moved_bytes(encoder, pairs, 2 if kind == "bf16" else 4).items()
    }
    seconds = seconds_by_kind(our_step, device)
    for name, value in sorted(seconds.items(), key=lambda item: -item[1]):
        bound = f"   bound by memory: {bounds[name]:.3f} s" if name in bounds else ""
        print(f"{name:16}{value:8.3f} s{100 * value / sum(seconds.values()):6.1f} %{bound}")
    facts = {"side": side, "batch_size": batch, "backbone": arguments.backbone, "threads": arguments.threads}
    facts |= {"operations_per_step": counter.get_total_flops(), "peak_operations_per_s": peaks}
    facts |= {"bytes_per_s": bandwidth, "seconds_by_kind": seconds, "seconds_bound_by_memory": bounds}
    facts["peak_memory_mib"] = torch.cuda.max_memory_allocated() / 2**20 if gpu else peak_memory_mib()
    print(write_result("pretraining_step_gpu" if gpu else "pretraining_step", rows, **facts))


if __name__ == "__main__":
    main()
