"""Section `tables` of the config."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from workflow_scripts.study.config.base import (
    Distinct,
    Labels,
    Name,
    NameOrNone,
    Number,
    Problem,
    Settings,
    Share,
    Text,
    cross_check,
)
from workflow_scripts.study.config.names import BASELINES


class Row(Settings):
    """A row of a table."""

    name: Text | None = Field(
        None, min_length=1, description="Name of the row as printed; the title of what init names when left out."
    )
    init: Name = Field(description="An initialisation, a pretraining run, or the baselines `majority` and `texture`.")
    labels: Labels | None = Field(None, description="Label set; finetuning.labels when left out.")
    variant: Literal[
        "", "unaugmented", "markers_only", "reflected", "probe", "paired", "mean_logits", "paired_mean_logits"
    ] = Field(
        "",
        description="A named change of the fine-tuning: `unaugmented` trains without augmentation, `markers_only` with "
        "markers only, `reflected` with `augmentation.outside: reflected`; "
        "`probe` trains no network and fits logistic regression on the frozen features of what init names; "
        "`mean_logits` trains nothing: the views of an organ side get the sigmoid of their mean logit, from the networks of "
        "the row without variant. `paired` trains both views of an organ side together, with the released code's symmetric KL "
        "divergence; `paired_mean_logits` fuses what these networks say.",
    )

    training_set: Name | None = Field(
        None,
        description="Table 5 only: the real and synthetic views to train on, one of finetuning.training_sets; the real ones "
        "when left out.",
    )
    paper: Name | None = Field(
        None,
        description="The row of the paper's table that this row repeats, by its key (study/paper_tables.csv). It brings the "
        "paper's numbers, makes the row the reference of the tests, and has the paper's claims checked on it.",
    )

    @cross_check
    def _baselines_have_no_recipe(self) -> Iterator[Problem]:
        if self.init in BASELINES and self.variant:
            yield ("variant",), f"the baseline {self.init!r} has no fine-tuning recipe to change"

    @cross_check
    def _training_sets_are_of_plain_rows(self) -> Iterator[Problem]:
        if self.training_set is not None and (self.init in BASELINES or self.variant):
            text = "synthetic views are learnt by networks with the plain recipe; leave out the baseline or the variant"
            yield ("training_set",), text


class Table(Settings):
    """A table of fine-tuned classifiers."""

    rows: list[Row] = Field([], description="The rows of the table in order.")


class OperatingPoints(Settings):
    """Thresholds at which the rows of the table `levels` are reported, beside the paper's 0.5."""

    sensitivities: Distinct[Share] = Field(
        [0.9], description="Sensitivities to reach; each gives a threshold, chosen on the training folds."
    )
    specificities: Distinct[Share] = Field([0.9], description="Specificities to reach, likewise.")
    prevalence: Share | None = Field(
        None, lt=1, description="Share of positives for which PPV and NPV are given; the study's own when left out."
    )


class Tables(Settings):
    """The tables and how their numbers are summarised."""

    spread: Literal["released", "seeds", "runs"] = Field(
        "released",
        description="What ± means. released: accuracy over folds x seeds, the others over the seeds' fold means "
        "(the paper's code); seeds: every metric over the seeds' fold means; runs: every metric over "
        "folds x seeds.",
    )
    reference: bool = Field(
        True, description="Print the paper's numbers beside ours where a row has them; never for phantoms."
    )
    table1: Table = Field(default_factory=Table, description="Label policies (Table 1 of the paper).")
    table1_protocols: Table = Field(default_factory=Table, description="Label policies under other audit protocols.")
    levels: Literal["", "table1", "table2", "table3", "table4"] = Field(
        "table2",
        description="Table whose rows are also scored by organ side and by patient (mean probability over views), and by "
        "device, scanner and centre where the manifest tells them apart; empty leaves it out.",
    )
    margin: Number = Field(
        2.0, gt=0, description="Percentage points within which the claims page calls two rows equal."
    )
    operating_points: OperatingPoints = Field(
        default_factory=OperatingPoints,
        description="Thresholds at which the rows of the table `levels` are reported, beside the paper's 0.5.",
    )
    leak: NameOrNone = Field(
        "",
        description="Initialisation or pretraining run that is fine-tuned once more with folds of views, to "
        "measure that leak; empty leaves the table out, and so does holdout: per_fold, or any "
        "split_by but patient.",
    )
    table2: Table = Field(default_factory=Table, description="Initialisations (Table 2 of the paper).")
    table3: Table = Field(default_factory=Table, description="Sets that pretraining uses (Table 3 of the paper).")
    table4: Table = Field(default_factory=Table, description="Losses of pretraining (Table 4 of the paper).")
    table5: Table = Field(
        default_factory=Table,
        description="Fine-tuning on synthetic views, tested on real ones (not in the paper). The first network is what the "
        "others are compared with; where it learns from real views alone, the figure `synthetic` begins there.",
    )
