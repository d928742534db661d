"""A file of weights is read and never run: every entry that takes one, with files that leave a trace when they are run."""

import argparse
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from tests.shared import REPOSITORY
from workflow_scripts.classifier import predict
from workflow_scripts.classifier.pack_classifier import DESCRIPTION, ENSEMBLE, ONNX, REFERENCE
from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import sha256, write_json
from workflow_scripts.data import fetch_weights
from workflow_scripts.diffusion import import_guided_diffusion
from workflow_scripts.diffusion.pipeline import load_pipeline, save_pipeline
from workflow_scripts.diffusion.snapshots import load_weights
from workflow_scripts.diffusion.unet import build_unet
from workflow_scripts.networks.backbone import LAYOUTS, create_backbone, load_classifier, load_initialisation
from workflow_scripts.runtime.work import WorkDir
from workflow_scripts.study.config import load_config
from workflow_scripts.study.weights import require_files
from workflow_scripts.synthesis.features import load_network

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:.*TorchScript archive")
CPU = torch.device("cpu")
UNET = "diffusion_pytorch_model"


class Pickled:
    """Makes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


class Scripted(torch.nn.Module):
    """Writes a file when its TorchScript is loaded, and when it is called."""

    def __init__(self, trace: str) -> None:
        super().__init__()
        self.trace = trace

    @torch.jit.export
    def __getstate__(self):
        return (self.trace, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]):
        self.trace = state[0]
        self.training = state[1]
        torch.save(torch.zeros(1), state[0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, self.trace)
        return x


class Attack:
    """Writes malicious files of one kind, all with the same trace."""

    def __init__(self, kind: str, trace: Path) -> None:
        self.kind, self.trace = kind, trace

    def __call__(self, file: Path) -> Path:
        if self.kind == "torchscript":
            torch.jit.script(Scripted(str(self.trace))).save(str(file))
        elif self.kind == "pickle":
            file.write_bytes(pickle.dumps({"conv1.weight": Pickled(self.trace)}, protocol=2))
        else:
            torch.save({"conv1.weight": Pickled(self.trace)}, file)
        return file


@pytest.fixture(params=["torchscript", "pickle", "torch.save"])
def attack(request: pytest.FixtureRequest, tmp_path: Path) -> Attack:
    return Attack(request.param, tmp_path / "trace")


def test_the_files_are_programs(attack: Attack, tmp_path: Path) -> None:
    file = attack(tmp_path / "weights")
    if attack.kind == "pickle":
        pickle.loads(file.read_bytes())  # noqa: S301
    else:
        torch.load(file, weights_only=False)
    assert attack.trace.exists()


def entry_embedding(kind: str, backbone: str, suffix: str) -> Callable[[Attack, Path], object]:
    return lambda attack, folder: load_network(kind, backbone, attack(folder / f"weights{suffix}"), CPU)


def entry_layout(layout: str, suffix: str) -> Callable[[Attack, Path], object]:
    return lambda attack, folder: load_initialisation(
        create_backbone("resnet18"), layout, attack(folder / f"weights{suffix}"), 0
    )


def diffusion_model(folder: Path) -> Path:
    save_pipeline(build_unet(8, 32, [1, 1], 1, [4], 2, 0.1), 100, "cosine", folder)
    return folder / "unet" / f"{UNET}.safetensors"


def entry_diffusion(name: str) -> Callable[[Attack, Path], object]:
    def load(attack: Attack, folder: Path) -> object:
        diffusion_model(folder / "model").unlink()
        attack(folder / "model" / "unet" / name)
        return load_pipeline(folder / "model")

    return load


def diffusion_index(attack: Attack, folder: Path) -> object:
    """An index of parts, which names one that is no safetensors file."""
    diffusion_model(folder / "model").unlink()
    unet = folder / "model" / "unet"
    attack(unet / "part.bin")
    write_json({"metadata": {}, "weight_map": {"conv_in.bias": "part.bin"}}, unet / f"{UNET}.safetensors.index.json")
    return load_pipeline(folder / "model")


def snapshot(attack: Attack, folder: Path) -> object:
    return load_weights(build_unet(8, 32, [1, 1], 1, [4], 2, 0.1), attack(folder / "step_0000001.safetensors"))


def guided_diffusion(attack: Attack, folder: Path) -> object:
    return import_guided_diffusion.main(import_guided_diffusion.parser().parse_args([
        "--input", str(attack(folder / "model.pt")), "--size", "32", "--heads", "4",
        "--output-model", str(folder / "model"),
    ]))  # fmt: skip


def entry_classifier(name: str) -> Callable[[Attack, Path], object]:
    """A folder whose description vouches for what is in it; `name` is the malicious file."""

    def load(attack: Attack, folder: Path) -> object:
        for file in (ONNX, REFERENCE, ENSEMBLE):
            (folder / file).write_bytes(b"")
        attack(folder / name)
        if name == REFERENCE:
            import onnx

            x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
            graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "identity", [x], [y])
            opset = [onnx.helper.make_opsetid("", 17)]
            onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), folder / ONNX)
        facts = {
            "files": {file: sha256(folder / file) for file in (ONNX, REFERENCE, ENSEMBLE)},
            "experiment": "ud-complete",
            "classes": ["a", "b"], "crop_profiles": {"whole": {"kind": "none"}}, "size": 16, "origin": "",
            "novelty": {"neighbours": 1, "embedding": 1},
        }  # fmt: skip
        write_json(facts, folder / DESCRIPTION)
        if name == ENSEMBLE:
            return predict.overlay_writer(
                argparse.Namespace(model=folder, overlays=folder / "maps", dicom=None, device="cpu", threads=1),
                json.loads((folder / DESCRIPTION).read_text()),
                predict.DicomFolder(None, {}, {}),
            )
        return predict.load_model(folder, 1)

    return load


def checkpoint(attack: Attack, folder: Path) -> object:
    work = WorkDir(folder / "work", {})
    attack(work.path / "checkpoint.pt")
    return work.load("checkpoint.pt")


ENTRIES = {
    **{f"inception{suffix}": entry_embedding("inception", "", suffix) for suffix in (".pt", ".pth", ".safetensors")},
    **{f"timm{suffix}": entry_embedding("timm", "test_resnet", suffix) for suffix in (".pt", ".safetensors")},
    "encoder": entry_embedding("encoder", "test_resnet", ".safetensors"),
    **{
        f"{layout}{suffix}": entry_layout(layout, suffix)
        for layout in LAYOUTS
        if layout != "scratch"
        for suffix in (".pth", ".safetensors")
    },
    **{f"diffusion{suffix}": entry_diffusion(f"{UNET}{suffix}") for suffix in (".safetensors", ".bin")},
    "diffusion index": diffusion_index,
    "snapshot": snapshot,
    "checkpoint": checkpoint,
    "import_guided_diffusion": guided_diffusion,
    "fine-tuned classifier": lambda attack, folder: load_classifier(attack(folder / "seed0_fold0.safetensors")),
    **{f"predict {name}": entry_classifier(name) for name in (ONNX, REFERENCE, ENSEMBLE)},
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_nothing_in_a_file_is_run(attack: Attack, entry: str, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        ENTRIES[entry](attack, tmp_path)
    assert not attack.trace.exists()


def shipped_config(**inception: str) -> dict:
    file = REPOSITORY / "config.yaml"
    merged = yaml.safe_load(file.read_text())
    merged["embedding"]["inception"] |= inception
    return load_config(merged, [file])


@pytest.mark.parametrize("with_checksum", [False, True])
def test_torchscript_stops_a_run_at_planning_whatever_its_checksum(tmp_path: Path, with_checksum: bool) -> None:
    file = Attack("torchscript", tmp_path / "trace")(tmp_path / "inception.pt")
    config = shipped_config(file=str(file), sha256=sha256(file) if with_checksum else "")
    with pytest.raises(UserError, match=r"inception\.pt is TorchScript, which is a program and is never run"):
        require_files(config, {str(file)})
    assert not (tmp_path / "trace").exists()
    require_files(config, set())  # a run that does not need the file


def test_another_file_than_the_config_says_stops_a_run_at_planning(tmp_path: Path) -> None:
    file = tmp_path / "inception.pth"
    torch.save({"a": torch.zeros(1)}, file)
    with pytest.raises(UserError, match=r"inception\.pth has the SHA-256 .*, but the config expects 6726825d0af5"):
        require_files(shipped_config(file=str(file)), {str(file)})
    require_files(shipped_config(file=str(file), sha256=sha256(file)), {str(file)})


def test_torchscript_is_not_fetched(tmp_path: Path) -> None:
    source = Attack("torchscript", tmp_path / "trace")(tmp_path / "inception.pt")
    output = tmp_path / "weights" / "inception.pt"
    words = ["--url", source.as_uri(), "--sha256", sha256(source), "--output-weights", str(output)]
    with pytest.raises(UserError, match=r"weights/inception\.pt is TorchScript"):
        fetch_weights.main(fetch_weights.parser().parse_args(words))
    assert not output.exists()
    assert not (tmp_path / "trace").exists()


def test_no_stage_runs_torchscript_or_opens_a_whole_pickle() -> None:
    """The other entries, those to come among them: every torch.load of the product says that it reads weights only."""
    for file in (REPOSITORY / "workflow_scripts").rglob("*.py"):
        text = file.read_text()
        assert "jit.load" not in text, file
        assert "weights_only=False" not in text, file
        assert "InceptionV3W" not in text, file
        assert text.count("torch.load(") == text.count("weights_only=True"), file
