"""Section `data` of the config."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from workflow_scripts.core.errors import names
from workflow_scripts.study.config.base import (
    Distinct,
    FilePath,
    Name,
    Natural,
    NonEmptyText,
    Problem,
    Settings,
    Whole,
    cross_check,
)
from workflow_scripts.study.config.names import LABELLED_SET, SYNTHETIC_SETS


def _with_area(box: list[int]) -> list[int]:
    if not all(box[2:]):
        raise PydanticCustomError("box", "{box} has no area; height and width are at least 1", {"box": str(box)})
    return box


Box = Annotated[list[Natural], Field(min_length=4, max_length=4), AfterValidator(_with_area)]


class CropProfile(Settings):
    """How the views of one device's frames are found."""

    kind: Literal["boxes", "dicom_regions", "auto", "masks", "none"] = Field(
        description="boxes: fixed boxes on the frame, one view each. dicom_regions: one view per region that the "
        "DICOM file marks as a tissue image. auto: one view per sonogram found in a screenshot. "
        "masks: the box of what the manifest's column `mask` marks is one view. none: the whole frame is one view."
    )
    boxes: list[Box] | None = Field(
        None, min_length=1, description="One [top, left, height, width] in pixels per view."
    )
    views: Distinct[Name] | None = Field(None, description="One name per box, the last part of the view id.")

    @cross_check
    def _one_name_per_box(self) -> Iterator[Problem]:
        if self.kind != "boxes":
            return
        for key in ("boxes", "views"):
            if getattr(self, key) is None:
                yield (key,), "this key is required with kind: boxes"
        if self.boxes is not None and self.views is not None and len(self.boxes) != len(self.views):
            yield (), f"{len(self.boxes)} boxes but {len(self.views)} view names"


class Data(Settings):
    """The frames, their organs and classes, and how views are cut from them."""

    manifest: FilePath = Field(description="CSV with one row per raw frame (docs/data.md).")
    root: FilePath = Field(description="Folder below which every path of the manifest lies.")
    source: Literal["files", "phantoms"] = Field(
        "files",
        description="files: the frames exist below root. phantoms: the workflow draws them from the manifest; "
        "every artefact is then marked PHANTOM.",
    )
    organs: Distinct[Name] = Field(
        min_length=1, description="Organ names of the study; the organ head of pretraining tells them apart."
    )
    target_organ: Name = Field(description="The organ whose views carry labels and which the diffusion model learns.")
    classes: Distinct[NonEmptyText] = Field(
        min_length=2, max_length=2, description="The two label names, negative first, positive second."
    )
    size: Whole = Field(256, ge=16, le=1024, description="Side of the square views in pixels.")
    crop_profiles: dict[Name, CropProfile] = Field(
        {}, description="Crop profiles by the name that the manifest's column `device` gives."
    )
    frames: str = Field(
        "first",
        pattern="^(first|all|every [1-9][0-9]{0,8})$",
        description="Frames of a clip (a file with several) where the manifest's column `frames` is empty: "
        "first, all, or every n-th.",
    )
    patient_key: FilePath = Field(
        "",
        description="File with a secret key; patient and image ids are then replaced by keyed hashes in every artefact "
        "and log. Empty keeps the manifest's.",
    )
    on_bad_frame: Literal["fail", "skip"] = Field(
        "fail",
        description="What to do with frames that cannot be decoded or cropped; they are listed by id either way.",
    )

    on_text: Literal["report", "blank", "fail"] = Field(
        "report",
        description="What to do with text that OCR finds burnt into a view. report: list and draw it. blank: black it out. "
        "fail: write no views. A synthetic image with text is never released; with fail, none is.",
    )

    @cross_check
    def _target_is_an_organ(self) -> Iterator[Problem]:
        if self.target_organ not in self.organs:
            yield ("target_organ",), f"{self.target_organ!r} is not one of data.organs ({names(self.organs)})"

    @cross_check
    def _organs_are_not_sets(self) -> Iterator[Problem]:
        for name in (LABELLED_SET, *SYNTHETIC_SETS):
            if name in self.organs:
                yield ("organs",), f"{name!r} names a set of views and cannot name an organ"
