"""Section `release` of the config."""

from pydantic import Field

from workflow_scripts.study.config.base import FilePath, Positive, Settings, Text


class ReleaseCard(Settings):
    """What the card of the released synthetic set says."""

    title: Text = Field("Synthetic ultrasound views", description="Title of the released set's card.")
    licence: Text = Field("", description='Licence of the released set; the card says "not chosen" while it is empty.')
    contact: Text = Field("", description="Whom to ask about the released set.")
    without_audit: bool = Field(
        False,
        description="Pack the set although no patient was held out (diffusion.holdout_patients: 0), so that it is not known"
        " whether it holds copies; its cards then say so.",
    )


class Release(ReleaseCard):
    """The released synthetic set: its card, and the clinician who reads it."""

    reading_views: Positive = Field(
        50,
        description="Generated views on reading.html, where a clinician reads them blind among as many real ones, one per"
        " patient; fewer where there are fewer patients or views. With holdout: per_fold there is no such page.",
    )
    readings: FilePath = Field(
        "",
        description="CSV of the clinician's readings (reading.html writes it): views called not fit to be shared stay out of"
        " the set, and its card says whether they could be told from real ones.",
    )
