"""The whole config: its sections, and what must agree between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from workflow_scripts.core.errors import names
from workflow_scripts.study.config.audit import Audit
from workflow_scripts.study.config.base import (
    Distinct,
    Folder,
    KeyPath,
    Name,
    Natural,
    Network,
    Problem,
    Settings,
    Whole,
    as_far_as_valid,
    cross_check,
)
from workflow_scripts.study.config.classifier import PackedClassifier
from workflow_scripts.study.config.data import Data
from workflow_scripts.study.config.diffusion import Diffusion
from workflow_scripts.study.config.embedding import Embedding
from workflow_scripts.study.config.external import ExternalSet
from workflow_scripts.study.config.figures import Figures
from workflow_scripts.study.config.finetuning import Finetuning
from workflow_scripts.study.config.initialisations import Initialisation
from workflow_scripts.study.config.manifold import Manifold
from workflow_scripts.study.config.names import BASELINES, LABELLED_SET, SYNTHETIC_SETS, TABLES
from workflow_scripts.study.config.pretraining import Pretraining, PretrainingRun
from workflow_scripts.study.config.privacy import Privacy
from workflow_scripts.study.config.release import Release
from workflow_scripts.study.config.synthesis import Synthesis
from workflow_scripts.study.config.tables import Row, Tables
from workflow_scripts.study.label_sets import OUT_OF_FOLD, label_set
from workflow_scripts.study.paper import paper_rows

# What a row's title says of its variant.
NAMED_VARIANTS = {"probe": ", frozen", "own_rate": ", own rates"}


class Model(Settings):
    """The network that is pretrained, fine-tuned and audited."""

    backbone: Network = Field("resnet18", description="Any timm network; it is created without its classifier.")


class Study(Settings):
    """The whole config."""

    results: Folder = Field("results", description="Folder of every artefact, which holds nothing else.")
    data: Data = Field(description="Frames, organs, classes and crops.")
    external: dict[Name, ExternalSet] = Field(
        {}, description="External tests: labelled patients that nothing learns from, by the name of their set."
    )
    model: Model = Field(default_factory=Model, description="The network that is pretrained, fine-tuned and audited.")
    seeds: Distinct[Natural] = Field(
        [0, 1, 2, 3],
        min_length=1,
        max_length=1000,
        description="One cross-validation per seed, with folds of its own, the same for every experiment.",
    )
    folds: Whole = Field(3, ge=2, le=1000, description="Folds of each cross-validation.")
    split_by: Literal["patient", "view", "scanner", "centre"] = Field(
        "patient",
        description="patient: a patient's views share a fold. scanner, centre: each fold is one value of that column of the "
        "manifest, left out in turn, so every seed has the same folds. view (the released code): training folds hold views "
        "of the test patients. Only to measure that leak.",
    )
    holdout: Literal["none", "per_fold"] = Field(
        "none",
        description="none (the paper): pretraining and diffusion see the pixels, not the labels, of test "
        "patients. per_fold: they do not, at the cost of one model per seed and fold.",
    )
    initialisations: dict[Name, Initialisation] = Field(
        default_factory=lambda: {"scratch": Initialisation(layout="scratch")},
        description="Networks to start from, by name, other than those the workflow pretrains itself.",
    )
    audit: Audit = Field(default_factory=Audit, description="The noisy-label audit (paper, Sec. 3).")
    pretraining: Pretraining = Field(
        default_factory=Pretraining, description="Contrastive pretraining (paper, Sec. 4.1)."
    )
    diffusion: Diffusion = Field(default_factory=Diffusion, description="The diffusion model (paper, Sec. 4.2).")
    synthesis: Synthesis = Field(default_factory=Synthesis, description="The synthetic views.")
    embedding: Embedding = Field(
        default_factory=Embedding, description="The network whose features the filter and the metrics use."
    )
    manifold: Manifold = Field(
        default_factory=Manifold, description="The manifold filter, its metrics and the privacy audit."
    )
    privacy: Privacy = Field(
        default_factory=Privacy, description="Attacks on the generator that need training runs of their own."
    )
    release: Release = Field(
        default_factory=Release, description="The released synthetic set: its card, and the clinician who reads it."
    )
    finetuning: Finetuning = Field(
        default_factory=Finetuning, description="Fine-tuning on labelled views (paper, Sec. 4.3)."
    )
    classifier: PackedClassifier = Field(
        default_factory=PackedClassifier,
        description="The classifier that `snakemake classifier` packs for use on new frames.",
    )
    tables: Tables = Field(default_factory=Tables, description="The tables and how their numbers are summarised.")
    figures: Figures = Field(default_factory=Figures, description="The figures.")

    @property
    def starts(self) -> set[str]:
        """What training may start from: initialisations and pretraining runs."""
        return {*self.initialisations, *self.pretraining.runs}

    def row_name(self, row: Row) -> str:
        """The printed name of a table row: its own, else the title of what it starts from, else that one's key."""
        if row.name is not None:
            return row.name
        start = self.pretraining.runs.get(row.init) or self.initialisations.get(row.init)
        title = start.title if start and start.title else row.init
        return f"{title}{NAMED_VARIANTS.get(row.variant, '')}"

    @cross_check
    def _generator_fits_the_views(self) -> Iterator[Problem]:
        """What the network itself would refuse, but only after the audit."""
        recipe, size, where = self.diffusion.recipe, self.data.size, ("diffusion", "recipe")
        if self.diffusion.model or self.synthesis.folder:
            return
        levels = len(recipe.channel_multipliers)
        if size % 2 ** min(levels - 1, size):
            text = (
                f"{levels} levels halve the side of a view {levels - 1} times, and data.size {size} does not allow it"
            )
            yield (*where, "channel_multipliers"), text
            return
        sides = [size // 2**level for level in range(levels)]
        if unknown := sorted(set(recipe.attention_resolutions) - set(sides)):
            text = f"no level has the side {unknown[0]}; there are {', '.join(map(str, sides))}"
            yield (*where, "attention_resolutions"), text
        deepest = recipe.base_channels * recipe.channel_multipliers[-1]
        if deepest % recipe.heads:
            yield (*where, "heads"), f"{deepest} channels of the deepest level do not divide into {recipe.heads} heads"

    @cross_check
    def _starts_have_different_names(self) -> Iterator[Problem]:
        for name in self.initialisations:
            if name in BASELINES:
                yield ("initialisations", name), f"{name!r} is the name of a baseline; choose another"
            if name in self.pretraining.runs:
                text = f"{name!r} is also an initialisation; give one of them another name"
                yield ("pretraining", "runs", name), text

    @cross_check
    def _runs_name_what_exists(self) -> Iterator[Problem]:
        for name, run in self.pretraining.runs.items():
            where = ("pretraining", "runs", name)
            for check in (self._known_sets, self._known_init, self._fits_init, self._a_loss_is_left):
                yield from as_far_as_valid(check(where, run))

    def _known_sets(self, where: KeyPath, run: PretrainingRun) -> Iterator[Problem]:
        sets = {LABELLED_SET, *self.data.organs, *SYNTHETIC_SETS}
        for unknown in sorted(set(run.sets) - sets):
            yield (*where, "sets"), f"no set {unknown!r}; there are {names(sets)}"

    def _known_init(self, where: KeyPath, run: PretrainingRun) -> Iterator[Problem]:
        if run.init not in self.initialisations:
            yield (*where, "init"), f"no initialisation {run.init!r}; there are {names(self.initialisations)}"

    def _fits_init(self, where: KeyPath, run: PretrainingRun) -> Iterator[Problem]:
        start = self.initialisations.get(run.init)
        if run.backbone is None or start is None or start.layout.startswith("scratch"):
            return
        if run.backbone != (weights := start.backbone or self.model.backbone):
            text = f"{run.backbone!r} cannot start from {run.init!r}, whose weights are of {weights!r}"
            yield (*where, "backbone"), text

    def _a_loss_is_left(self, where: KeyPath, run: PretrainingRun) -> Iterator[Problem]:
        organs = {name if name in self.data.organs else self.data.target_organ for name in run.sets}
        if not run.recipe.loss_con and len(organs) < 2:
            yield (*where, "recipe", "loss_con"), "without L_con only L_sup is left, and it needs two organs"

    def _known_start(self, where: KeyPath, name: str) -> Iterator[Problem]:
        if name and name not in self.starts:
            yield where, f"no initialisation or pretraining run {name!r}; there are {names(self.starts)}"

    @cross_check
    def _audit_starts_exist(self) -> Iterator[Problem]:
        for i, name in enumerate(self.audit.initialisations):
            yield from self._known_start(("audit", "initialisations", i), name)

    @cross_check
    def _packed_start_exists(self) -> Iterator[Problem]:
        yield from self._known_start(("classifier", "init"), self.classifier.init)

    @cross_check
    def _leak_start_exists(self) -> Iterator[Problem]:
        yield from self._known_start(("tables", "leak"), self.tables.leak)

    @cross_check
    def _explained_start_exists(self) -> Iterator[Problem]:
        yield from self._known_start(("figures", "explained"), self.figures.explained)

    @cross_check
    def _learning_start_exists(self) -> Iterator[Problem]:
        yield from self._known_start(("figures", "learning_curve"), self.figures.learning_curve)

    @cross_check
    def _rows_name_what_exists(self) -> Iterator[Problem]:
        for table in TABLES:
            yield from as_far_as_valid(self._table(table))

    def _table(self, table: str) -> Iterator[Problem]:
        names_seen: set[str] = set()
        keys_seen: set[str] = set()
        for i, row in enumerate(getattr(self.tables, table).rows):
            where = ("tables", table, "rows", i)
            for check in (
                self._known_row_start,
                self._reviewed_labels_exist,
                self._nested_labels_exist,
                self._exceedances_are_reached,
            ):
                yield from as_far_as_valid(check(where, row))
            yield from as_far_as_valid(self._known_training_set(where, row, table))
            yield from as_far_as_valid(self._own_name(where, row, names_seen))
            yield from as_far_as_valid(self._own_paper_row(where, row, table, keys_seen))

    def _own_name(self, where: KeyPath, row: Row, seen: set[str]) -> Iterator[Problem]:
        name = self.row_name(row)
        if name in seen:
            yield (*where, "name"), f"two rows are named {name[:60]!r}"
        seen.add(name)

    def _own_paper_row(self, where: KeyPath, row: Row, table: str, seen: set[str]) -> Iterator[Problem]:
        if row.paper is None:
            return
        if row.paper not in paper_rows(table):
            text = f"the paper's {table} has no row {row.paper[:60]!r}; there are {names(paper_rows(table))}"
            yield (*where, "paper"), text
        elif row.paper in seen:
            yield (*where, "paper"), f"two rows repeat the paper's row {row.paper!r}"
        seen.add(row.paper)

    def _known_row_start(self, where: KeyPath, row: Row) -> Iterator[Problem]:
        if row.init not in BASELINES:
            yield from self._known_start((*where, "init"), row.init)

    def _known_training_set(self, where: KeyPath, row: Row, table: str) -> Iterator[Problem]:
        if row.training_set is None:
            return
        known, where = self.finetuning.training_sets, (*where, "training_set")
        if row.training_set not in known:
            there_are = f"there are {names(known)}" if known else "finetuning.training_sets has none"
            yield where, f"no training set {row.training_set!r}; {there_are}"
        if table != "table5":
            yield where, "synthetic views are learnt in the rows of table 5, whose caption says so; move the row there"
        if not self.diffusion.class_conditional:
            yield (
                where,
                "a classifier learns from views of known classes, and this generator is not asked for any; set "
                "diffusion.class_conditional: true",
            )

    def _reviewed_labels_exist(self, where: KeyPath, row: Row) -> Iterator[Problem]:
        labels = self.finetuning.labels if row.labels is None else row.labels
        if labels == "reviewed" and not self.audit.decisions:
            yield (*where, "labels"), "the policy `reviewed` needs audit.decisions, a clinician's decisions.csv"

    def _nested_labels_exist(self, where: KeyPath, row: Row) -> Iterator[Problem]:
        if row.labels is not None and row.labels.endswith("_nested") and self.audit.vote.method in OUT_OF_FOLD:
            text = "nested labels need a method that scores the training itself: votes, mean_loss or aum"
            yield (*where, "labels"), text

    def _exceedances_are_reached(self, where: KeyPath, row: Row) -> Iterator[Problem]:
        asked = None if row.labels is None else label_set(str(row.labels)).exceedances
        if asked is not None and not self.audit.can_flag(asked):
            text = (
                f"a run of {self.audit.recipe.epochs} epochs (audit.recipe.epochs) can never hold {asked} exceedances"
            )
            yield (*where, "labels"), text

    @cross_check
    def _encoder_is_of_real_views(self) -> Iterator[Problem]:
        kind, _, name = self.embedding.network.partition(":")
        if kind != "encoder":
            return
        runs, where = self.pretraining.runs, ("embedding", "network")
        if name not in runs:
            yield where, f"no pretraining run {name!r}; there are {names(runs)}"
        elif set(runs[name].sets) & set(SYNTHETIC_SETS):
            text = f"{name!r} is trained on synthetic views, so it cannot judge them; name a run on real sets"
            yield where, text

    @cross_check
    def _calibration_has_patients(self) -> Iterator[Problem]:
        if self.manifold.recipe.filter_rule == "calibrated" and not self.diffusion.holdout_patients:
            yield (
                ("manifold", "recipe", "filter_rule"),
                "calibrated radii need patients that the generator never saw, and diffusion.holdout_patients is 0; "
                "raise it, or set filter_rule: neighbours",
            )

    @cross_check
    def _folder_needs_no_generator(self) -> Iterator[Problem]:
        if self.synthesis.source != "folder":
            return
        text = "images from a folder may be of any patient, and no generator is trained: {}"
        if self.diffusion.holdout_patients:
            yield ("diffusion", "holdout_patients"), text.format("set it to 0")
        if self.diffusion.model:
            yield ("diffusion", "model"), text.format("leave it empty")
        if self.diffusion.class_conditional:
            yield ("diffusion", "class_conditional"), text.format("set it to false")
        if self.holdout == "per_fold":
            yield ("holdout",), text.format("set it to none")

    @cross_check
    def _unfiltered_sets_are_of_a_folder(self) -> Iterator[Problem]:
        if self.manifold.recipe.filter_rule != "none":
            return
        if self.synthesis.source != "folder":
            text = "only images of a folder (synthesis.source) can have been filtered before; choose neighbours or calibrated"
            yield ("manifold", "recipe", "filter_rule"), text
        for table in TABLES:
            for i, row in enumerate(getattr(self.tables, table).rows):
                run = self.pretraining.runs.get(row.init)
                if run is not None and "synthetic" in run.sets:
                    yield (
                        ("tables", table, "rows", i, "init"),
                        f"{row.init!r} pretrains on the set `synthetic`, and with manifold.recipe.filter_rule: none the folder's "
                        "images are the set `filtered`; take the row out",
                    )

    @cross_check
    def _canaries_are_trained(self) -> Iterator[Problem]:
        if self.privacy.canaries and (self.diffusion.model or self.synthesis.source == "folder"):
            yield (
                ("privacy", "canaries"),
                "canaries are marked views that a generator is trained on, and this study trains none; set it to 0",
            )

    @cross_check
    def _what_is_read_is_one_release(self) -> Iterator[Problem]:
        where = ("release", "readings")
        if self.release.readings and self.synthesis.source == "folder":
            yield (
                where,
                "a set that others made (synthesis.source: folder) is not released, so no reading is of it; empty it",
            )
        if self.release.readings and self.holdout == "per_fold":
            yield where, "with holdout: per_fold every fold has a set of its own, and none has a reading page; empty it"

    @cross_check
    def _release_is_audited(self) -> Iterator[Problem]:
        if self.synthesis.source == "folder":
            return
        if not self.diffusion.holdout_patients and not self.release.without_audit:
            yield (
                ("release", "without_audit"),
                "diffusion.holdout_patients is 0, so no audit can tell copies of patients' views from similarity, and the "
                "set is not released; hold patients out, or set release.without_audit: true, which every card then says",
            )

    @cross_check
    def _ready_model_has_no_holdout(self) -> Iterator[Problem]:
        if self.diffusion.model and self.holdout == "per_fold":
            text = "a ready model has seen every fold's patients; holdout: per_fold must train its own"
            yield ("diffusion", "model"), text

    @cross_check
    def _folds_hold_patients_out(self) -> Iterator[Problem]:
        if self.split_by == "view" and self.holdout == "per_fold":
            yield (
                ("split_by",),
                "folds of views share patients, so holdout: per_fold has no patients to leave out; choose one of the two",
            )

    @cross_check
    def _every_pretraining_is_used(self) -> Iterator[Problem]:
        repeats, where = self.pretraining.seeds, ("pretraining", "seeds")
        if repeats > 1 and self.holdout == "per_fold":
            yield (
                where,
                f"{repeats}, but with holdout: per_fold every seed and fold has its own pretraining run; leave it at 1",
            )
            return
        used = {seed % repeats for seed in self.seeds}
        if len(used) < repeats:
            idle = next(number for number in range(repeats) if number not in used)
            yield (
                where,
                f"no fine-tuning seed starts from pretraining number {idle}: seed s starts from number s modulo "
                f"{repeats}, and seeds are {names(map(str, self.seeds))}",
            )
