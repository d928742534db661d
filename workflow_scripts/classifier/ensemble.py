"""The packed classifier: the networks of all folds and seeds as one, in PyTorch and as ONNX."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import atomic_path
from workflow_scripts.networks.backbone import (
    Classifier,
    create_backbone,
    normalise,
    read_parameters,
    read_weights,
    save_weights,
)

if TYPE_CHECKING:
    from onnx import ModelProto

INPUT, OUTPUTS = "views", ("probability", "member_probabilities", "embeddings")
# An ONNX file is one protobuf message, and these may not exceed 2 GiB.
LARGEST_ONNX = 2_000_000_000


class Ensemble(nn.Module):
    """M classifiers that see the same views; state keys `member<i>.*` and `temperature`."""

    temperature: Tensor

    def __init__(self, members: Sequence[Classifier], temperature: float) -> None:
        super().__init__()
        self.count = len(members)
        for number, member in enumerate(members):
            self.add_module(f"member{number}", member)
        self.register_buffer("temperature", torch.tensor(temperature, dtype=torch.float32))

    @property
    def members(self) -> list[Classifier]:
        """The classifiers in order."""
        return [self.get_submodule(f"member{number}") for number in range(self.count)]  # type: ignore[misc]

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 views (N, H, W) -> what `OUTPUTS` names.

        Probability of the positive class, (N,): the sigmoid of the members' mean logit over the temperature. The same
        of each member alone, (N, M). The features that each member's head sees, (N, M, D).
        """
        images = normalise(views)
        embeddings = [member.backbone(images) for member in self.members]
        logits = torch.stack(
            [margin(member.head(features)) for member, features in zip(self.members, embeddings, strict=True)], dim=1
        )
        tempered = logits / self.temperature
        return tempered.mean(dim=1).sigmoid(), tempered.sigmoid(), torch.stack(embeddings, dim=1)


def margin(logits: Tensor) -> Tensor:
    """Two logits (N, 2), negative class first, as the one logit (N,) of the positive class."""
    return logits[:, 1] - logits[:, 0]


@torch.inference_mode()
def embed(member: Classifier, views: Tensor, batch_size: int = 64) -> tuple[Tensor, Tensor]:
    """Embeddings float32 (N, D) and logits of the positive class (N,), on CPU, of uint8 views (N, H, W) on its device."""
    member.eval()
    embeddings = [member.backbone(normalise(part)) for part in views.split(batch_size)]
    return torch.cat(embeddings).cpu(), torch.cat([margin(member.head(part)) for part in embeddings]).cpu()


def save_ensemble(ensemble: Ensemble, parameters: Mapping[str, Any], path: Path) -> None:
    """Write all members as safetensors; `parameters` must name the `backbone` and are kept in the metadata."""
    save_weights(ensemble.state_dict(), parameters, path)


def load_ensemble(path: Path) -> Ensemble:
    """The ensemble in eval mode on CPU, from what `save_ensemble` wrote."""
    weights, parameters = read_weights(path), read_parameters(path)
    backbone, normalisation = parameters.get("backbone"), parameters.get("normalisation", ())
    count = len({key.partition(".")[0] for key in weights} - {"temperature"})
    if backbone is None or "temperature" not in weights or not count:
        raise UserError(f"{path} is not an ensemble: its metadata must name the backbone, its keys begin with member0.")
    side = parameters.get("size")
    members = [
        Classifier(create_backbone(backbone, normalisation=normalisation, side=side), seed=0) for _ in range(count)
    ]
    ensemble = Ensemble(members, 1.0)
    try:
        ensemble.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{path} does not fit its backbone {backbone}; it is damaged, or of another version") from error
    return ensemble.eval()


def export_onnx(ensemble: Ensemble, size: int, notes: Mapping[str, str], path: Path) -> None:
    """Write the ensemble, on CPU and in eval mode, as one self-contained ONNX file for any number of views.

    Input `views` uint8 (views, size, size); outputs as `Ensemble.forward`. `notes` go into the metadata. Nothing of
    the machine is kept: the exporter writes stack traces with paths, which are taken out.
    """
    bytes_needed = sum(value.numel() * value.element_size() for value in ensemble.state_dict().values())
    if bytes_needed > LARGEST_ONNX:
        raise UserError(
            f"the ensemble has {bytes_needed / 1e9:.1f} GB of weights, but an ONNX file can hold no more than 2 GB; "
            "use fewer seeds or a smaller backbone"
        )
    # Two views: the exporter takes a dimension of 1 for a constant.
    example = torch.zeros(2, size, size, dtype=torch.uint8)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns about torchvision's operators, which no backbone needs
    try:
        program = torch.onnx.export(
            ensemble, (example,), input_names=[INPUT], output_names=list(OUTPUTS),
            dynamic_shapes={"views": {0: torch.export.Dim("views")}}, dynamo=True, verbose=False,
        )  # fmt: skip
    finally:
        logger.setLevel(level)
    assert program is not None
    model = program.model_proto
    _forget_origin(model)
    for key, value in sorted(notes.items()):
        model.metadata_props.add(key=key, value=value)
    with atomic_path(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))


def _forget_origin(model: ModelProto) -> None:
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
