"""Fine-tuning: images per second of the input path, and seconds per run and per experiment.

Input path: 880 views of 256 x 256 pixels, augmented as config.yaml says and standardised for the network, without the
network. Ours takes them from the store in memory, in batches. The peers decode a PNG file and augment one image at a
time with Pillow and torchvision: markers, rotation, flip and shift with the same magnitudes; as a plain loop, and as a
DataLoader with two workers.

Training: one process, ResNet-18, batch 64, three folds one after the other (a seed of an experiment), on phantoms.
Without a GPU only a few epochs are trained and thirty are projected from them: `projected` says so in the results.

    python -m benchmarks.finetuning [--epochs 30]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import paired, peak_memory_mib, start_run, write_result

VIEWS, SIZE, BATCH = 880, 256, 64
PAPER_EPOCHS, FOLDS, SEEDS = 30, 3, 4
REPOSITORY = Path(__file__).parent.parent


def shipped_recipe() -> dict[str, Any]:
    """The settings of config.yaml, with the schema's defaults."""
    import yaml

    from workflow_scripts.study.config import load_config

    file = REPOSITORY / "config.yaml"
    return load_config(yaml.safe_load(file.read_text(encoding="utf-8")), [file])["finetuning"]["recipe"]


def draw_views(size: int) -> tuple[Any, Any]:
    """Phantom views uint8 (VIEWS, size, size) and their classes (VIEWS,): frames of 220 patients, two views each, twice."""
    import numpy as np
    from PIL import Image

    from workflow_scripts.data.phantom import draw_frame

    views, labels = [], []
    for i in range(VIEWS // 4):
        frame = draw_frame(0, f"F{i}", f"P{i}", "testicle", inhomogeneous=i % 5 == 0, thyroid=False)
        for left in (185, 485):
            view = Image.fromarray(frame[130:430, left : left + 300]).resize((size, size))
            views += [np.asarray(view)] * 2
            labels += [int(i % 5 == 0)] * 2
    return np.stack(views), np.array(labels)


def ours(views: Any, settings: dict[str, Any], device: str) -> None:
    """Every view once through our input path."""
    import numpy as np
    import torch

    from workflow_scripts.core.randomness import uniforms
    from workflow_scripts.networks.backbone import standardise, to_unit
    from workflow_scripts.networks.cross_validation import augment, augmentation_draws
    from workflow_scripts.study.config.finetuning import FinetuningAugmentation

    augmentation = FinetuningAugmentation(**settings)
    draws = uniforms(0, "benchmark", 0, np.arange(len(views)), augmentation_draws(augmentation))
    with torch.no_grad():
        for start in range(0, len(views), BATCH):
            part = slice(start, start + BATCH)
            standardise(augment(to_unit(views[part]), draws[part], augmentation))
    if device == "cuda":
        torch.cuda.synchronize()


class OneAtATime:
    """The peer, as a dataset: decode, draw markers with Pillow, torchvision's RandomAffine and flip, to a tensor."""

    def __init__(self, files: list[Path], settings: dict[str, Any]) -> None:
        from torchvision.transforms import v2

        shift = settings["shift"]
        import torch

        self.files, self.markers = files, settings["markers"]
        self.transform = v2.Compose([
            v2.RandomAffine(settings["rotation"], translate=(shift, shift), interpolation=v2.InterpolationMode.BILINEAR),
            v2.RandomHorizontalFlip(settings["flip"]),
            v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Any:
        from PIL import Image, ImageDraw

        with Image.open(self.files[i]) as file:
            image = file.convert("RGB")
        draw = ImageDraw.Draw(image)
        side = image.width
        for kind in (0, 0, 1, 1, 2, 2, 3, 3):
            if random.random() >= self.markers:
                continue
            x, y, x2, y2 = (side * random.uniform(0.1, 0.9) for _ in range(4))
            r = side * random.uniform(0.02, 0.04)
            ink = (random.randint(217, 255),) * 3
            if kind == 0:
                draw.ellipse((x - r, y - r, x + r, y + r), outline=ink)
            if kind in (1, 3):
                draw.line((x - r, y, x + r, y), fill=ink)
                draw.line((x, y - r, x, y + r), fill=ink)
            if kind == 2:
                draw.line((x - r, y, x + r, y), fill=ink)
            if kind == 3:
                dots = max(2, int(math.hypot(x2 - x, y2 - y) / 6))
                draw.point([(x + (x2 - x) * t / dots, y + (y2 - y) * t / dots) for t in range(dots)], fill=ink)
        return self.transform(image)


def input_path(views: Any, settings: dict[str, Any], device: str, repeats: int) -> list[dict[str, Any]]:
    """Images per second of ours and of the peers."""
    import torch
    from PIL import Image

    resident = torch.from_numpy(views).to(device)
    with tempfile.TemporaryDirectory() as name:
        files = [Path(name) / f"{i}.png" for i in range(len(views))]
        for file, view in zip(files, views, strict=True):
            Image.fromarray(view).save(file)
        data = OneAtATime(files, settings)
        loader = torch.utils.data.DataLoader(data, batch_size=BATCH, num_workers=2)  # type: ignore[arg-type]
        times = paired(
            {
                "store in memory, batched": lambda: ours(resident, settings, device),
                "Pillow and torchvision, loop": lambda: [data[i] for i in range(len(data))],
                "Pillow and torchvision, DataLoader, 2 workers": lambda: list(loader),
            },
            repeats,
        )
    base = times["Pillow and torchvision, loop"]["seconds_median"]
    return [
        {
            "method": method, **seconds, "images_per_second": len(views) / seconds["seconds_median"],
            "times_the_loop": base / seconds["seconds_median"],
        }
        for method, seconds in times.items()
    ]  # fmt: skip


def train(views: Any, labels: Any, recipe: dict[str, Any], epochs: int, device: str) -> list[dict[str, Any]]:
    """Seconds of start-up (imports of a stage), of a run (fold) and of an experiment."""
    import numpy as np
    import torch

    from workflow_scripts.networks.cross_validation import CrossValidation, cross_validate, initial_classifiers
    from workflow_scripts.study.config.finetuning import FinetuningRecipe

    start = time.perf_counter()
    imports = "import torch, workflow_scripts.networks.cross_validation"
    subprocess.run([sys.executable, "-c", imports], check=True, cwd=REPOSITORY)
    startup = time.perf_counter() - start

    folds = np.arange(len(views)) // 4 % FOLDS
    models = initial_classifiers("resnet18", "scratch", [], 0, range(FOLDS))
    settings = FinetuningRecipe(**{**recipe, "epochs": epochs})
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stderr(io.StringIO()):
        start = time.perf_counter()
        resident = torch.from_numpy(views).to(device)
        task = CrossValidation(resident, dict.fromkeys(models, labels), folds, settings, seed=0)
        cross_validate(models, task, start_run(Path(name) / "work", device, torch.get_num_threads()))
        seed = time.perf_counter() - start
    run = seed / FOLDS * PAPER_EPOCHS / epochs
    projected = epochs != PAPER_EPOCHS
    return [
        {"what": "process start", "seconds": startup, "projected": False},
        {"what": f"three folds of {epochs} epochs", "seconds": seed, "projected": False},
        {"what": f"a run: one fold, {PAPER_EPOCHS} epochs", "seconds": run, "projected": projected},
        {
            "what": f"an experiment: {FOLDS * SEEDS} runs in {SEEDS} processes",
            "seconds": SEEDS * (startup + FOLDS * run), "projected": True,
        },
    ]  # fmt: skip


def main() -> None:
    """Measure, print, write benchmarks/results/finetuning.json."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="of the input path (default: 3)")
    parser.add_argument("--epochs", type=int, help="trained (default: 30 on a GPU, else 1)")
    parser.add_argument(
        "--training-size", type=int, help="side of the training's views (default: 256 on a GPU, else 64)"
    )
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(2 if device == "cpu" else 4)
    epochs = arguments.epochs or (PAPER_EPOCHS if device == "cuda" else 1)
    size = arguments.training_size or (SIZE if device == "cuda" else 64)

    recipe = shipped_recipe()
    rows = input_path(draw_views(SIZE)[0], recipe["augmentation"], device, arguments.repeats)
    training = train(*draw_views(size), recipe, epochs, device)
    for row in rows:
        print(f"{row['method']:48}{row['images_per_second']:8.0f} images/s{row['times_the_loop']:7.1f} x")
    for row in training:
        print(f"{row['what']:48}{row['seconds']:8.1f} s{'  (projected)' if row['projected'] else ''}")
    print(write_result(
        "finetuning", rows, device=device, threads=torch.get_num_threads(), views=VIEWS, view_size=SIZE,
        training=training, training_size=size, peak_memory_mib=peak_memory_mib(),
    ))  # fmt: skip


if __name__ == "__main__":
    main()
