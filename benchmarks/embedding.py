"""Images per second of embedding, beside clean-fid's own loop over a folder of images, with the same network.

The network is the FID's Inception v3 with random weights, a state dictionary for ours and in the layout of NVIDIA's
TorchScript file for clean-fid; the published weights are not shipped, and speed does not depend on them. Ours reads a
store; clean-fid decodes PNG files. Both resize with clean-fid's filter to 299 x 299 and must give the same features.

    python -m benchmarks.embedding
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import large_convolution, matrix_product, memory_of_each, paired, write_result

WEIGHTS, TORCHSCRIPT = "inception.pth", "inception-2015-12-05.pt"


def write_network(folder: Path) -> float:
    """Write our file and clean-fid's; the operations of one image."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from workflow_scripts.synthesis.inception import fid_inception

    torch.manual_seed(0)
    network = fid_inception().eval()
    torch.save(network.state_dict(), folder / WEIGHTS)
    network.fc = torch.nn.Identity()
    image = torch.zeros(1, 3, 299, 299)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(image)
    outside = torch.nn.Module()
    outside.layers = torch.jit.trace(network, image)
    torch.jit.script(outside).save(str(folder / TORCHSCRIPT))
    return float(counter.get_total_flops())


def prepare(folder: Path, images: int, size: int) -> float:
    """Write the network, views and the same views as PNG files; the operations of one image."""
    import numpy as np
    from PIL import Image

    views = np.random.default_rng(0).integers(0, 256, (images, size, size), dtype=np.uint8)
    np.save(folder / "views.npy", views)
    (folder / "images").mkdir()
    for i, view in enumerate(views):
        Image.fromarray(view).convert("RGB").save(folder / "images" / f"{i:05}.png")
    return write_network(folder)


def sides(folder: Path, batch_size: int, threads: int) -> dict[str, Callable[[], Any]]:
    """Our embedding and clean-fid's of what `prepare` wrote."""
    import numpy as np
    from cleanfid.fid import get_folder_features
    from cleanfid.inception_torchscript import InceptionV3W

    from workflow_scripts.runtime.device import select_device
    from workflow_scripts.synthesis.features import embed, load_inception

    device = select_device("auto", threads)
    views = np.load(folder / "views.npy")
    network = load_inception(folder / WEIGHTS, device)
    theirs = InceptionV3W(str(folder), download=False).to(device).eval()

    def ours() -> np.ndarray:
        return np.concatenate(list(embed(views, network, batch_size)))

    def folder_loop() -> np.ndarray:
        return np.asarray(get_folder_features(
            str(folder / "images"), theirs, num_workers=0, batch_size=batch_size, device=device, mode="clean",
            verbose=False,
        ))  # fmt: skip

    return {"ours": ours, "clean-fid's folder loop": folder_loop}


def main() -> None:
    """Measure, compare, write benchmarks/results/embedding.json (or embedding_gpu.json)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32, help="(default: 32)")
    parser.add_argument("--size", type=int, default=256, help="(default: 256)")
    parser.add_argument("--batch-size", type=int, default=16, help="(default: 16)")
    parser.add_argument("--repeats", type=int, default=3, help="(default: 3)")
    parser.add_argument("--threads", type=int, default=1, help="(default: 1)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        operations = prepare(folder, arguments.images, arguments.size)
        memory = memory_of_each("benchmarks.embedding", folder, arguments.batch_size, arguments.threads)

        import numpy as np

        from workflow_scripts.runtime.device import select_device

        device = select_device("auto", arguments.threads)
        functions = sides(folder, arguments.batch_size, arguments.threads)
        limits = {
            "matrix product": matrix_product(device, "float32"), "convolution": large_convolution(device, "float32")
        }  # fmt: skip
        times = paired(functions | {name: one for name, (one, _) in limits.items()}, arguments.repeats)
        features = {name: function() for name, function in functions.items()}
    peaks = {name: count / times[name]["seconds_median"] for name, (_, count) in limits.items()}
    ours, theirs = features.values()
    difference = float(np.abs(ours - theirs).max() / np.abs(ours).max())
    rows = []
    for method in functions:
        speed = arguments.images / times[method]["seconds_median"]
        share = operations * speed / max(peaks.values())
        rows.append({
            "method": method, "images_per_s": speed, "share_of_peak": share, "peak_memory_mib": memory[method],
            **times[method],
        })  # fmt: skip
        print(f"{method:26}{speed:8.2f} images/s {100 * share:5.1f} % of the peak")
    print(f"largest difference between features, of the largest feature: {difference:.1e}")
    facts = {"images": arguments.images, "size": arguments.size, "threads": arguments.threads}
    facts |= {"operations_per_image": operations, "peak_operations_per_s": peaks, "largest_difference": difference}
    print(write_result("embedding_gpu" if device.type == "cuda" else "embedding", rows, **facts))


if __name__ == "__main__":
    main()
