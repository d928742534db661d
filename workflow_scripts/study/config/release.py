"""Section `release` of the config."""

from pydantic import Field

from workflow_scripts.study.config.base import Settings, Text


class Release(Settings):
    """The card of the released synthetic set."""

    title: Text = Field("Synthetic ultrasound views", description="Title of the released set's card.")
    licence: Text = Field("", description='Licence of the released set; the card says "not chosen" while it is empty.')
    contact: Text = Field("", description="Whom to ask about the released set.")
    without_audit: bool = Field(
        False,
        description="Pack the set although no patient was held out (diffusion.holdout_patients: 0), so that it is not known"
        " whether it holds copies; its cards then say so.",
    )
