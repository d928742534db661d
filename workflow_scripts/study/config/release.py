"""Section `release` of the config."""

from pydantic import Field

from workflow_scripts.study.config.base import Settings


class Release(Settings):
    """The card of the released synthetic set."""

    title: str = Field("Synthetic ultrasound views", description="Title of the released set's card.")
    licence: str = Field("", description='Licence of the released set; the card says "not chosen" while it is empty.')
    contact: str = Field("", description="Whom to ask about the released set.")
