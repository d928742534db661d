"""What `predict` needs of classifier.json: checked, since a stranger may have written it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from workflow_scripts.study.config.base import Distinct, Name, NonEmptyText, Positive, Settings
from workflow_scripts.study.config.data import CropProfile
from workflow_scripts.study.config.errors import read_model


class _Novelty(BaseModel):
    model_config = ConfigDict(strict=True)
    neighbours: Positive
    embedding: Positive


class _Files(Settings):
    ensemble: Annotated[str, Field(alias="ensemble.safetensors")]
    onnx: Annotated[str, Field(alias="classifier.onnx")]
    reference: Annotated[str, Field(alias="reference.safetensors")]


class Description(BaseModel):
    """The keys of classifier.json that are used; names of views become names of files, so they are letters and digits."""

    model_config = ConfigDict(strict=True)
    classes: Annotated[Distinct[NonEmptyText], Field(min_length=2, max_length=2)]
    crop_profiles: Annotated[dict[Name, CropProfile], Field(min_length=1)]
    experiment: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=100)]
    files: _Files
    novelty: _Novelty
    origin: Literal["", "PHANTOM"]
    size: Annotated[int, Field(ge=16, le=1024)]


def read_description(path: Path) -> dict[str, Any]:
    """The description of a classifier as plain values; `UserError` where it is damaged or of another kind."""
    description = read_model(path, Description, "describes no classifier", "copy the folder again")
    return description.model_dump(by_alias=True, exclude_none=True)
