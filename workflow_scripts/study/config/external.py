"""Section `external` of the config."""

from __future__ import annotations

from pydantic import Field

from workflow_scripts.study.config.base import FilePath, NonEmptyText, Settings


class ExternalSet(Settings):
    """Labelled patients that no stage learns from; every table row is scored on them once more."""

    manifest: FilePath = Field(
        description="CSV with one row per raw frame, as data.manifest; rows without a label are ignored."
    )
    root: FilePath | None = Field(
        None, description="Folder below which every path of the manifest lies; data.root when left out."
    )
    seen_without_labels: bool = Field(
        False,
        description="Whether patients of this set may appear in the study's manifest without a label, so that pretraining sees "
        "their pixels and never their labels; tables say so. Patients who are labelled there are always refused.",
    )
    title: NonEmptyText | None = Field(None, description="Name in tables and figures; the key itself when left out.")
