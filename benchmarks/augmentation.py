"""Views per second of pretraining's augmentation, against torchvision v2 called image by image.

The peers draw the same transforms with the same magnitudes, all of them per image: random resized crop, horizontal flip,
rotation, brightness and contrast, Gaussian blur (p 0.2), and one black square. Pixels differ (other random numbers, and
torchvision resamples twice); statistics must be alike.

    python -m benchmarks.augmentation
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from benchmarks.measure import memory_copy, memory_of_each, paired, write_result


def torchvision_view(recipe: Any, side: int) -> Callable[[Any], Any]:
    """torchvision's transform of one image (1, side, side) in [0, 1] with the magnitudes of a view's recipe."""
    from torchvision.transforms import v2

    ratio = (1 / recipe.crop_ratio, recipe.crop_ratio)
    return v2.Compose([
        v2.RandomResizedCrop(side, (recipe.crop_scale, 1.0), ratio, antialias=False),
        v2.RandomHorizontalFlip(recipe.flip),
        v2.RandomRotation(recipe.rotation, v2.InterpolationMode.BILINEAR),
        v2.ColorJitter(recipe.brightness, recipe.contrast),
        v2.RandomApply([v2.GaussianBlur(7, (0.3, 1.2))], recipe.blur),
        v2.RandomErasing(1.0, (1e-4, recipe.black_square**2), (1.0, 1.0), value=0),
    ])  # fmt: skip


def sides(count: int, size: int) -> dict[str, Callable[[], Any]]:
    """The peer's and our augmentation of as many views of phantoms."""
    import numpy as np
    import torch

    from workflow_scripts.data.phantom import draw_frame
    from workflow_scripts.pretraining.augmentation import augment
    from workflow_scripts.study.config.pretraining import PretrainingAugmentation

    recipe = PretrainingAugmentation()
    top, left = 150, 200
    frames = [draw_frame(0, f"F{i}", f"P{i}", "testicle", i % 2 == 0, False) for i in range(min(8, count))]
    views = [np.asarray(frame)[top : top + size, left : left + size] for frame in frames]
    images = torch.from_numpy(np.stack([views[i % len(views)] for i in range(count)]))
    indices = np.arange(count)
    transforms = torchvision_view(recipe, size)

    def one_by_one() -> torch.Tensor:
        return torch.stack([transforms(image[None].float() / 255) for image in images])

    def batched() -> torch.Tensor:
        return augment(images, recipe, 0, "view0", 0, indices)

    return {"torchvision v2, image by image": one_by_one, "tusflow, batched": batched}


def main() -> None:
    """Measure, write benchmarks/results/augmentation.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64, help="(default: 64)")
    parser.add_argument("--size", type=int, default=256, help="(default: 256)")
    parser.add_argument("--repeats", type=int, default=5, help="(default: 5)")
    parser.add_argument("--threads", type=int, default=1, help="(default: 1)")
    arguments = parser.parse_args()
    peaks = memory_of_each("benchmarks.augmentation", arguments.images, arguments.size)

    import torch

    torch.set_num_threads(arguments.threads)
    functions = sides(arguments.images, arguments.size)
    copy, moved = memory_copy(torch.device("cpu"))
    times = paired({**functions, "copy": copy}, arguments.repeats)
    bandwidth = moved / times.pop("copy")["seconds_median"]
    # The least that any augmentation must move: read a byte and write a float for every pixel.
    least = 5 * arguments.size**2
    slow = times["torchvision v2, image by image"]["seconds_median"]
    rows = []
    for name, seconds in times.items():
        speed, mean = arguments.images / seconds["seconds_median"], functions[name]().mean().item()
        ratio = slow / seconds["seconds_median"]
        rows.append({
            "method": name, **seconds, "views_per_second": speed, "times_torchvision": ratio, "mean": mean,
            "share_of_bandwidth": speed * least / bandwidth, "peak_memory_mib": peaks[name],
        })  # fmt: skip
        print(f"{name:34}{speed:8.0f} views/s{ratio:7.2f} x   mean {mean:.3f}")
    facts = {"images": arguments.images, "size": arguments.size, "threads": arguments.threads, "bytes_per_s": bandwidth}
    print(write_result("augmentation", rows, **facts))


if __name__ == "__main__":
    main()
