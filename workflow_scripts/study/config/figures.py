"""Section `figures` of the config."""

from typing import Annotated, Literal

from pydantic import Field

from workflow_scripts.study.config.base import Distinct, FilePath, NameOrNone, Settings, Size, Whole


class Figures(Settings):
    """The figures."""

    frames: Size = Field(4, ge=1, description="Frames shown in figure 1.")
    blur: bool = Field(True, description="Blur figure 1 outside the crop boxes, where names of patients may appear.")
    views_per_sheet: Size = Field(48, ge=1, description="Views on a contact sheet.")
    calibration: Literal["", "table1", "table2", "table3", "table4"] = Field(
        "table2", description="Table whose rows' reliability diagrams are drawn; empty leaves them out."
    )
    explained: NameOrNone = Field(
        "",
        description="Initialisation or pretraining run that figure 5 explains, trained with the full "
        "augmentation, with markers alone and without any; empty leaves figure 5 out.",
    )
    explained_views: Size = Field(2, ge=1, description="Test views in figure 5 (Grad-CAM++).")
    learning_curve: NameOrNone = Field(
        "",
        description="Initialisation or pretraining run that is fine-tuned again on fewer training patients, to see whether "
        "more would help; empty leaves the learning curve out.",
    )
    learning_percents: Distinct[Annotated[Whole, Field(ge=1, le=99)]] = Field(
        [25, 50],
        min_length=1,
        description="Percentages of the training patients in the learning curve, beside all of them.",
    )
    masks: FilePath = Field(
        "",
        description="Parenchyma of the labelled views, .npy (views, size, size) in the order of views/labelled.csv, 0 outside. "
        "Figure 5 then outlines it and says which share of the heat lies on it; empty leaves that out.",
    )
