"""Backbones, the weights they start from, and the classifier on top of them (paper, Sec. 3 and 4.1 and 4.3)."""

from __future__ import annotations

import json
import math
import platform
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import atomic_path, refuse_torchscript, verify_recorded_sha256
from workflow_scripts.core.randomness import philox
from workflow_scripts.core.text import printable

LAYOUTS = ("scratch", "scratch_fan_in", "torchvision", "uscl", "timm", "original")
# Options with which timm's networks of a fixed input size take any: Vision Transformers, Swin Transformers.
ANY_SIZE: tuple[dict[str, Any], ...] = (
    {"dynamic_img_size": True, "dynamic_img_pad": True}, {"strict_img_size": False},
)  # fmt: skip
# Every classifier and encoder gets its input normalised with these (paper, Sec. 4.1).
MEAN, STD = 0.5, 0.25
LONGEST_NAME = 120  # characters of a tensor's name in a message
# USCL numbers the children of a torchvision ResNet; those between (ReLU, pooling) have no weights.
USCL_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
# Names under which training scripts usually store a state dictionary among other things.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "teacher")
# What self-supervised checkpoints hold beside the encoder: decoders, tokens of what is hidden, classifiers, projections.
BESIDE_ENCODER = ("decoder", "mask_token", "head.", "lm_head.", "fc.", "dino_head.", "ibot_head.", "projector.")


@contextmanager
def seed_weights(seed: int, stream: str) -> Iterator[None]:
    """Within it, torch's initialisers (on CPU) draw from (seed, stream) alone; outside nothing changes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(philox(seed, stream).integers(2**63)))
        yield


def create_backbone(
    name: str, seed: int = 0, normalisation: Sequence[float] = (), side: int | None = None
) -> nn.Module:
    """A timm network without classifier on CPU, (N, 3, H, W) -> (N, feature_count); its weights are timm's random ones.

    A Vision Transformer interpolates its position embeddings to the views that it is given, whatever their side; a Swin
    Transformer fits its windows to them. Other networks of a fixed input size (BEiT, CaiT, LeViT, MaxViT, mixers) are made
    for views of `side` pixels where it is given and their own size does not take them. Inputs are always normalised by MEAN
    and STD; `normalisation` are the mean and deviation that the weights expect instead (two numbers, or three means and
    three deviations), to which the network converts its input first. Raises `UserError` on a name that timm does not know.
    """
    import timm

    options = _size_options(name, side)
    with seed_weights(seed, "backbone"):
        network = timm.create_model(name, pretrained=False, num_classes=0, **options)
    return _expecting(network, normalisation)


@cache
def _size_options(name: str, side: int | None) -> dict[str, Any]:
    """The options with which timm makes a network that takes views of that side, or of its own without one."""
    import timm

    if not timm.is_model(name):
        close = timm.list_models(f"*{name}*")[:5]
        raise UserError(
            f"backbone {name!r} is not a timm model (config key model.backbone); "
            + (f"similar names: {', '.join(close)}" if close else "timm.list_models() lists them all")
        )
    made_for = timm.get_pretrained_cfg(name)
    if made_for is not None and not made_for.fixed_input_size:
        return {}
    for options in ANY_SIZE:
        try:
            _on_meta(name, None, options)
            return options
        except TypeError:
            pass  # the network's class has no such option
    if side is None or side == _own_side(name):
        return {}
    try:
        _on_meta(name, side, {})
        return {}
    except Exception:  # networks say in any way that a size does not suit them
        return {"img_size": side}


def _own_side(name: str) -> int | None:
    import timm

    made_for = timm.get_pretrained_cfg(name)
    return None if made_for is None else made_for.input_size[-1]


def _on_meta(name: str, side: int | None, options: Mapping[str, Any]) -> None:
    """Make the network and, with a side, try one forward; computes no numbers (torch's device `meta`)."""
    import timm

    with torch.device("meta"), torch.no_grad():
        network = timm.create_model(name, pretrained=False, num_classes=0, **options).eval()
        if side is not None:
            network(torch.zeros(1, 3, side, side))


def _expecting(network: nn.Module, normalisation: Sequence[float]) -> nn.Module:
    """The network, which converts what is normalised by MEAN and STD to its own normalisation, if it has one."""
    if normalisation:
        half = len(normalisation) // 2
        mean, std = (
            torch.tensor(part).expand(3)[:, None, None] for part in (normalisation[:half], normalisation[half:])
        )
        network.register_buffer("input_scale", STD / std, persistent=False)
        network.register_buffer("input_shift", (MEAN - mean) / std, persistent=False)
        network.register_forward_pre_hook(_convert_input)
    return network


def _convert_input(network: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0] * network.input_scale + network.input_shift, *inputs[1:])


def require_forward(name: str, side: int) -> None:
    """Raise `UserError` unless the timm network takes views of that side; computes no numbers (torch's device `meta`)."""
    options = _size_options(name, side)
    try:
        _on_meta(name, side, options)
    except Exception as error:  # networks say in any way that a size does not suit them
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise UserError(
            f"backbone {name!r} cannot take views of {side} pixels ({reason}); set data.size to what it was made for"
            f" ({_own_side(name) or '?'}), or choose another backbone"
        ) from error


def feature_count(backbone: nn.Module) -> int:
    """Number of features that a backbone without classifier gives per image."""
    # Some networks (MobileNetV3) widen after what timm calls num_features.
    return int(getattr(backbone, "head_hidden_size", None) or backbone.num_features)  # type: ignore[arg-type]


def load_initialisation(backbone: nn.Module, layout: str, path: Path | None, seed: int) -> None:
    """Set the weights that a training run starts from, in place.

    Layouts: `scratch` draws Kaiming-normal convolutions by their fan out from `seed`, `scratch_fan_in` by their fan in, as
    the released code does (its first convolution is 4.7 times as wide then); neither needs a file.
    `torchvision` is a torchvision ResNet; `uscl` is USCL's `features.<i>.…` over the children of a torchvision ResNet,
    with projection layers `l…` and `fc…`; `timm` is the network's own keys, as in backbone.safetensors; `original` is a
    checkpoint with the keys of its method's authors (MAE, BEiT, DINOv2, DeiT, Swin), which timm translates and whose position
    embeddings it fits to the network's. Classifiers, decoders and
    projections are dropped; every other key must match, both ways. Raises `UserError` on a file that is absent, damaged or
    pickled, that does not have its recorded checksum, or that has other keys or shapes.
    """
    if layout in ("scratch", "scratch_fan_in"):
        if path is not None:
            raise UserError(f"layout {layout} takes no weights, but {path} is given; name its layout or leave it out")
        _draw_scratch(backbone, seed, by_fan_in=layout == "scratch_fan_in")
        return
    if layout not in LAYOUTS:
        raise UserError(f"layout {layout!r} is not one of {', '.join(LAYOUTS)}")
    if path is None:
        raise UserError(f"layout {layout} needs a file of weights (--weights)")
    weights = _in_timm_keys(read_weights(path), layout, backbone)
    _require_match(weights, backbone.state_dict(), f"{path} (layout {layout})")
    backbone.load_state_dict(weights, strict=False)


def load_backbone(name: str, path: Path) -> nn.Module:
    """A pretrained backbone in eval mode on CPU, from a file under timm's keys; raises as `load_initialisation` does."""
    backbone = create_backbone(name)
    load_initialisation(backbone, "timm", path, seed=0)
    return backbone.eval()


def read_weights(path: Path) -> dict[str, Tensor]:
    """The named tensors of a .safetensors file or of one that `torch.save` wrote, without unpickling anything else.

    A state dictionary among other entries is unwrapped, and DataParallel's `module.` is dropped. A checksum recorded
    beside the file (`<file>.sha256`) must hold. Raises `UserError` on files that are absent, damaged or hold something else,
    TorchScript included.
    """
    if not path.is_file():
        raise UserError(f"weights {path} do not exist; supply the file, or correct its path in the config")
    verify_recorded_sha256(path)
    refuse_torchscript(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # any error that a damaged file causes in the unpickler, in zipfile or in safetensors
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{path} cannot be read as weights ({reason}). Either it is damaged (fetch it again), or it holds pickled "
            "objects other than tensors, which are not executed here (save its state dictionary alone, with torch.save "
            "or as safetensors)"
        ) from error
    weights = _state_dictionary(content)
    if weights is None:
        raise UserError(f"{path} holds no state dictionary (tensors by name); save the network's state_dict() alone")
    if all(key.startswith("module.") for key in weights):
        weights = {key.removeprefix("module."): value for key, value in weights.items()}
    odd = [f"{key} ({kind})" for key, value in weights.items() if (kind := _oddity(value))]
    if odd:
        raise UserError(
            f"{path} holds tensors that are no plain weights: {_some(odd)}; save the network's state_dict() alone"
        )
    # In single precision, as they will be used: larger numbers become infinite there.
    broken = [key for key, value in weights.items() if value.is_floating_point() and not value.float().isfinite().all()]
    if broken:
        raise UserError(f"{path}: weights {_some(broken)} are not finite; the training run that wrote them diverged")
    return weights


class Classifier(nn.Module):
    """A backbone and one linear layer with two logits, negative class first; state keys `backbone.*` and `head.*`.

    The head's initial weights are a function of `seed`: torch's default (`uniform`), or Kaiming-normal by the fan in with
    biases 0 (`kaiming`, the released code's).
    """

    def __init__(self, backbone: nn.Module, seed: int, head: str = "uniform") -> None:
        super().__init__()
        self.backbone = backbone
        with seed_weights(seed, "head"):
            self.head = nn.Linear(feature_count(backbone), 2)
            if head == "kaiming":
                nn.init.kaiming_normal_(self.head.weight)
                nn.init.zeros_(self.head.bias)

    def forward(self, views: Tensor) -> Tensor:
        """(N, 3, H, W) normalised views -> (N, 2) logits."""
        return self.head(self.backbone(views))


def to_unit(views: Tensor) -> Tensor:
    """uint8 (N, H, W) -> float32 (N, 1, H, W) in [0, 1]."""
    return views[:, None].float() / 255


def standardise(images: Tensor) -> Tensor:
    """float (N, 1, H, W) in [0, 1] -> network input (N, 3, H, W) in [-2, 2]: three equal channels (paper, Sec. 4.1)."""
    return ((images - MEAN) / STD).expand(-1, 3, -1, -1)


def normalise(views: Tensor) -> Tensor:
    """uint8 (N, H, W) -> network input float32 (N, 3, H, W) in [-2, 2]."""
    return standardise(to_unit(views))


def library_versions() -> dict[str, str]:
    """Versions of the libraries that compute the result of a training run."""
    import numpy as np
    import timm

    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "timm": timm.__version__,
        "torch": torch.__version__,
    }


def save_weights(weights: Mapping[str, Tensor], parameters: Mapping[str, Any], path: Path) -> None:
    """Write tensors as safetensors, atomically, with `parameters` (any JSON value) as JSON text in the metadata."""
    from safetensors.torch import save_file

    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    with atomic_path(path) as temporary:
        save_file(
            tensors, temporary, metadata={"parameters": json.dumps(parameters, sort_keys=True, ensure_ascii=False)}
        )


def read_parameters(path: Path) -> dict[str, Any]:
    """The parameters that `save_weights` wrote into the metadata."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return json.loads((file.metadata() or {}).get("parameters", "{}"))


def load_classifier(path: Path) -> tuple[Classifier, dict[str, Any]]:
    """A fine-tuned classifier in eval mode on CPU, and its parameters, from `seed<s>_fold<f>.safetensors`."""
    weights, parameters = read_weights(path), read_parameters(path)
    if "backbone" not in parameters:
        raise UserError(f"{path} names no backbone in its metadata: the stage finetune did not write it")
    model = Classifier(
        create_backbone(
            parameters["backbone"], normalisation=parameters.get("normalisation", ()), side=parameters.get("size")
        ),
        seed=0,
    )
    _require_match(weights, model.state_dict(), str(path))
    model.load_state_dict(weights)
    return model.eval(), parameters


def _draw_scratch(backbone: nn.Module, seed: int, by_fan_in: bool) -> None:
    with seed_weights(seed, "scratch"):
        for module in backbone.modules():
            if isinstance(module, nn.Conv2d):
                # Kaiming-normal with the fan of one group; torch's initialiser would ignore the groups in a fan out.
                channels = module.in_channels if by_fan_in else module.out_channels
                fan = channels // module.groups * math.prod(module.kernel_size)
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan))
                if by_fan_in and module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                # timm starts the last norm of a residual block at 0; torchvision, and so the released code, at 1.
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)


def _state_dictionary(content: Any) -> dict[str, Tensor] | None:
    if not isinstance(content, Mapping):
        return None
    if content and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()):
        return dict(content)
    inner = {key: found for key, value in content.items() if (found := _state_dictionary(value)) is not None}
    for name in WRAPPERS:
        if name in inner:
            return inner[name]
    return next(iter(inner.values())) if len(inner) == 1 else None


def _oddity(value: Tensor) -> str:
    """What keeps a tensor from being plain numbers in memory, or ""; asked before it is computed with."""
    if value.layout != torch.strided:
        return "sparse"
    if value.is_quantized:
        return "quantised"
    if value.is_complex():
        return "complex"
    if value.device.type != "cpu":
        return "without values"
    # A stride of 0 makes gigabytes of a few bytes.
    return "" if value.untyped_storage().nbytes() >= value.numel() * value.element_size() else "strided over itself"


def _in_timm_keys(weights: dict[str, Tensor], layout: str, backbone: nn.Module) -> dict[str, Tensor]:
    """Rename to timm's keys and drop what is not part of the backbone; a key that cannot be renamed stays as it is."""
    if layout == "torchvision":
        return {key: value for key, value in weights.items() if not key.startswith("fc.")}
    if layout == "timm":
        return _without_classifier(weights, backbone)
    if layout == "original":
        return _translated(weights, backbone)
    renamed = {}
    for key, value in weights.items():
        if key.startswith(("l", "fc")):
            continue
        features, _, rest = key.partition(".")
        child, _, parameter = rest.partition(".")
        is_known = features == "features" and child in USCL_CHILDREN
        renamed[f"{USCL_CHILDREN[child]}.{parameter}" if is_known else key] = value
    return renamed


def _without_classifier(weights: dict[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    classifier = getattr(backbone, "default_cfg", {}).get("classifier") or ()
    names = (classifier,) if isinstance(classifier, str) else classifier
    return {k: v for k, v in weights.items() if not k.startswith(tuple(f"{name}." for name in names))}


def _translated(weights: dict[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """The encoder of a checkpoint of a method's authors, under timm's keys and with the network's position embeddings."""
    for prefix in ("backbone.", "encoder."):
        if any(key.startswith(prefix) for key in weights):
            weights = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    weights = _as_fine_tuned(_without_classifier(weights, backbone), backbone)
    translate = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    # Among what is beside the encoder is DINOv2's mask token, by which timm knows its checkpoints.
    translated = weights if translate is None else translate(weights, backbone)
    return {key: value for key, value in translated.items() if not key.startswith(BESIDE_ENCODER)}


def _as_fine_tuned(weights: dict[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """What BEiT's pretraining has once, one table of relative positions for all blocks, is given to each block, and its last
    norm to the one after pooling, where the network has them so."""
    wanted = backbone.state_dict()
    shared = weights.pop("rel_pos_bias.relative_position_bias_table", None)
    if shared is not None:
        weights |= {key: shared for key in wanted if key.endswith(".attn.relative_position_bias_table")}
    if "fc_norm.weight" in wanted and "norm.weight" not in wanted:
        weights = {re.sub(r"^norm\.", "fc_norm.", key): value for key, value in weights.items()}
    return weights


def _require_match(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: str) -> None:
    unmatched = [key for key in weights if key not in wanted]
    missing = [key for key in wanted if key not in weights and not key.endswith("num_batches_tracked")]
    if unmatched or missing:
        parts = [f"{len(unmatched)} of its keys are not in the network: {_some(unmatched)}"] if unmatched else []
        parts += [f"{len(missing)} keys of the network are not in the file: {_some(missing)}"] if missing else []
        raise UserError(f"{source} does not fit the backbone: {'; '.join(parts)}. Check model.backbone and the layout")
    shapes = [
        f"{key} {tuple(value.shape)} instead of {tuple(wanted[key].shape)}"
        for key, value in weights.items()
        if value.shape != wanted[key].shape
    ]
    whole = [key for key, value in weights.items() if wanted[key].is_floating_point() and not value.is_floating_point()]
    if whole:
        raise UserError(
            f"{source} has integers for weights: {_some(whole)}; it may be a quantised network, which is not used"
        )
    if shapes:
        raise UserError(
            f"{source} has other shapes than the backbone: {_some(shapes)}. Check model.backbone; weights "
            "for images of another size take the layout original, which fits position embeddings"
        )


def _some(names: list[str]) -> str:
    shown = [printable(name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…") for name in names[:3]]
    return ", ".join(shown) + (" …" if len(names) > 3 else "")
