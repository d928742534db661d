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

from benchmarks.measure import paired, write_result


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


def main() -> None:
    """Measure, write benchmarks/results/augmentation.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64, help="(default: 64)")
    parser.add_argument("--size", type=int, default=256, help="(default: 256)")
    parser.add_argument("--repeats", type=int, default=5, help="(default: 5)")
    parser.add_argument("--threads", type=int, default=1, help="(default: 1)")
    arguments = parser.parse_args()

    import numpy as np
    import torch

    from workflow_scripts.imaging.phantom import draw_frame
    from workflow_scripts.study.schema import recipe_defaults
    from workflow_scripts.training.augmentation import augment, view_recipes

    torch.set_num_threads(arguments.threads)
    settings = recipe_defaults("pretraining_recipe")["augmentation"]
    recipe, _ = view_recipes(settings)
    top, left, side = 150, 200, arguments.size
    frames = [draw_frame(0, f"F{i}", f"P{i}", "testicle", i % 2 == 0, False) for i in range(min(8, arguments.images))]
    views = [np.asarray(frame)[top : top + side, left : left + side] for frame in frames]
    images = torch.from_numpy(np.stack([views[i % len(views)] for i in range(arguments.images)]))
    indices = np.arange(arguments.images)

    transforms = torchvision_view(recipe, side)

    def one_by_one() -> torch.Tensor:
        return torch.stack([transforms(image[None].float() / 255) for image in images])

    def batched() -> torch.Tensor:
        return augment(images, recipe, 0, "view0", 0, indices)

    times = paired({"torchvision v2, image by image": one_by_one, "tusflow, batched": batched}, arguments.repeats)
    slow = times["torchvision v2, image by image"]["seconds_median"]
    means = {"torchvision v2, image by image": one_by_one().mean().item(), "tusflow, batched": batched().mean().item()}
    rows = []
    for name, seconds in times.items():
        speed = arguments.images / seconds["seconds_median"]
        ratio = slow / seconds["seconds_median"]
        rows.append(
            {"method": name, **seconds, "views_per_second": speed, "times_torchvision": ratio, "mean": means[name]}
        )
        print(f"{name:34}{speed:8.0f} views/s{ratio:7.2f} x   mean {means[name]:.3f}")
    print(write_result("augmentation", rows, images=arguments.images, size=side, threads=arguments.threads))


if __name__ == "__main__":
    main()
