# What the rules share: the validated study, artefact paths, cohorts, and how a rule becomes a command. Rules that take
# seconds are local (`localrule: True`): on a cluster they run where Snakemake does, and no submission is spent on them.
import json
import sys
from pathlib import Path
from shlex import join, quote
from types import SimpleNamespace

from snakemake.exceptions import WorkflowError

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import remove_parts
from workflow_scripts.runtime.arguments import flags
from workflow_scripts.runtime.cluster import (
    cancel_orphans,
    note_run,
    remove_stale_locks,
    stay_with_squeue,
    use_for_stages,
)
from workflow_scripts.runtime.code_version import code_version
from workflow_scripts.study import experiments as study
from workflow_scripts.study.config import LABELLED_SET, SYNTHETIC_SETS, TABLES as ROW_TABLES, load_config
from workflow_scripts.study.experiments import cohorts, left_out
from workflow_scripts.study.label_sets import label_set
from workflow_scripts.study.manifest import (
    filled_sets,
    load_external,
    load_manifest,
    require_held_out,
    require_patients,
    telling_ids,
    told_apart,
)
from workflow_scripts.study.protocol import generation_facts, metric_facts, table_facts
from workflow_scripts.study.pseudonyms import read_key
from workflow_scripts.study.weights import require_files, require_known_backbones, require_supplied, weight_files
from workflow_scripts.tools.write_provenance import write_crate

use_for_stages(str(REPOSITORY))
stay_with_squeue()
if workflow.is_main_process:
    note_run(Path(".snakemake"))
    remove_stale_locks(Path(".snakemake"))

# The Snakefile's configfile, then what --configfile and --config change in it.
_changes = [str(file) for file in workflow.overwrite_configfiles]
_words = workflow.config_settings.config_args or []
CONFIG_FLAGS = " ".join(
    (["--configfile", *map(quote, _changes)] if _changes else [])
    + (["--config", *map(quote, _words)] if _words else [])
)

try:
    _files = [str(file) for file in workflow.configfiles if str(file) not in _changes]
    config = load_config(config, [*map(Path, _files), *map(Path, _changes)])
    if config["data"]["patient_key"]:
        read_key(Path(config["data"]["patient_key"]))
    EXPERIMENTS = study.experiments(config)
    PRETRAINED = study.pretraining_runs(config)
    _frames = load_manifest(config["data"]["manifest"], config["data"])
    REAL_SETS = filled_sets(_frames, config, PRETRAINED)
    TOLD_APART = told_apart(_frames, config)
    require_patients(_frames, config)
    require_held_out(_frames, config)
    _frames += [row for name in config["external"] for row in load_external(name, config, tuple(_frames))]
    # Jobs of their own read this file too; what is searched for once need not be searched for again.
    if workflow.is_main_process:
        require_supplied(config)
        require_known_backbones(config)
except UserError as error:
    raise WorkflowError(str(error)) from None

if workflow.is_main_process:
    for _name in study.backbones(config):
        # ResNets take any size; trying another network costs the import of torch.
        if "resnet" not in _name:
            from workflow_scripts.networks.backbone import require_forward

            try:
                require_forward(_name, config["data"]["size"])
            except UserError as error:
                raise WorkflowError(str(error)) from None

RESULTS = config["results"]
DATA = config["data"]
SEEDS = config["seeds"]
FOLDS = range(config["folds"])
RUNS = config["pretraining"]["runs"]
# The sets of external tests are cropped and compared like the study's own, and nothing learns from them.
EXTERNAL = config["external"]
EXTERNAL_SETS = [f"external/{name}" for name in EXTERNAL]
CLASSES = DATA["classes"]
POSITIVE = CLASSES[1]
# Phantoms must never pass for patients: everything a person looks at carries this.
ORIGIN = "PHANTOM" if DATA["source"] == "phantoms" else ""
# The paper's numbers belong beside those of patients only.
REFERENCE_NUMBERS = config["tables"]["reference"] and not ORIGIN
# Input of every stage that writes the manifest's ids or joins by them: another key means other ids throughout.
PATIENT_KEY = DATA["patient_key"] or []
# Jobs of their own read this file too and would repeat it.
if workflow.is_main_process and not PATIENT_KEY and not ORIGIN and (_warning := telling_ids(_frames)):
    print(_warning, file=sys.stderr)
COHORTS = cohorts(config)
READY_MODEL = config["diffusion"]["model"]
# Synthetic views that were made elsewhere: a folder of images.
SYNTHETIC_FOLDER = config["synthesis"]["folder"]
TRAINS_GENERATOR = not READY_MODEL and not SYNTHETIC_FOLDER
ASKED_CLASSES = CLASSES if config["diffusion"]["class_conditional"] else []
# Patients whom the generator never saw, for the privacy audit to judge by.
HELD_OUT = config["diffusion"]["holdout_patients"] > 0
# A training whose checkpoint is chosen afterwards keeps snapshots beside its last weights.
SELECTING = config["diffusion"]["select"] != "last" and TRAINS_GENERATOR
# The generators that snapshots are kept of: also the one with canaries, whatever is selected from the others.
CANARIES = config["privacy"]["canaries"]
SHOWN_TABLES = [table for table in ROW_TABLES if config["tables"][table]["rows"]]
# Folds of views have no organ side or patient as a whole.
LEVELS = config["tables"]["levels"] if config["split_by"] != "view" else ""
LEVELS = LEVELS if LEVELS in SHOWN_TABLES else ""
TABLES = [
    *SHOWN_TABLES,
    "generation",
    "shortcuts",
    *(["leak"] if study.leak_experiments(config) else []),
    *(["levels", "operating_points"] if LEVELS else []),
    *(["groups"] if LEVELS and TOLD_APART else []),
    *[f"{name}/{table}" for name in EXTERNAL_SETS for table in SHOWN_TABLES],
]
# Every label set that the study makes; the three of the paper always.
LABEL_SETS = {"complete", "filtered", "flipped", *(experiment.labels for experiment in EXPERIMENTS.values())}


wildcard_constraints:
    cohort=r"(seed\d+_fold\d+/|canaries/)?",
    experiment="|".join(EXPERIMENTS) or "none",
    external="|".join(EXTERNAL) or "none",
    fold=r"\d+",
    init=r"[A-Za-z][A-Za-z0-9_]*",
    repeat=r"(repeat\d+/)?",
    labels="|".join(sorted(LABEL_SETS)),
    real_set="|".join([*REAL_SETS, *EXTERNAL_SETS]),
    run="|".join(RUNS) or "none",
    seed=r"\d+",
    shard=r"\d+",
    synthetic_set="|".join(SYNTHETIC_SETS),
    table="|".join(ROW_TABLES),


def result(path):
    """Path of an artefact; wildcards stay in place."""
    return f"{RESULTS}/{path}"


def log_of(path):
    """Path of a stage's log."""
    return f"{RESULTS}/logs/{path}.log"


def stage(module, resume="", settings=None, shared=False, **parameters):
    """The params that run `python -m workflow_scripts.<module>`; the shell is "{params.command} --log {log:q}".

    Every named input and output becomes a flag (outputs: --output-<name>), and so does every parameter and
    every entry of `settings`; each may be a function of the wildcards. `resume` names the work directory of a stage that
    survives interruptions, after the stage's own name; `shared`: its GPUs share each batch. Inputs without a name are
    waited for and not passed on.
    """
    name = module.rpartition(".")[2]
    asked = {**parameters, **({"settings": settings} if settings else {})}

    def value(parameter, wildcards):
        return parameter(wildcards) if callable(parameter) else parameter

    # Snakemake leaves what is made from inputs, threads or resources out of its comparison with the last run, so a command
    # that looks different reruns nothing; the parameters it is made from are compared one by one.
    def command(wildcards, input, output, threads, resources):
        words = {**_named(input), **{f"output_{key}": files for key, files in _named(output).items()}}
        words |= {key: value(parameter, wildcards) for key, parameter in parameters.items()}
        words |= value(settings, wildcards) or {}
        words |= {"threads": threads, "code_version": code_version(module)}
        if resume:
            work = f"{name}/{resume.format(**wildcards)}"
            words |= {"work_dir": result(f"work/{work}"), "time_limit": resources.runtime}
            if shared:
                words |= {"processes": resources.gpu, "tensorboard": result(f"tensorboard/{work}")}
        return f"exec python -m workflow_scripts.{module} {join(flags(words))}"

    # As functions, since Snakemake would look for wildcards in the text of a config.
    wrapped = {key: lambda wildcards, asked=each: value(asked, wildcards) for key, each in asked.items()}
    return {**wrapped, "code": code_version(module), "command": command}


def _named(files):
    """The named files of a rule's inputs or outputs: one path, or a list; a name without files is left out."""
    paths = {
        name: files[start] if end is None else list(files[start:end]) for name, (start, end) in files._names.items()
    }
    return {name: path for name, path in paths.items() if path}


def wildcard(name):
    """A parameter that is a wildcard of the rule."""
    return lambda wildcards: wildcards[name]


def left_out_folds(wildcards):
    """The fold file that names the patients a cohort leaves out, if it leaves out any."""
    out = left_out(wildcards.cohort)
    return [result(f"folds/seed{out[0]}.csv")] if out else []


def excluded_fold(wildcards):
    """The fold of `left_out_folds` whose patients a cohort leaves out, if it leaves out any."""
    out = left_out(wildcards.cohort)
    return out[1] if out else None


def start_layout(init):
    """Key layout of the weights that a training starts from."""
    return "timm" if init in RUNS else config["initialisations"][init]["layout"]


def start_weights(init, seed):
    """The weights that the folds of one seed start from: none, one file, or (holdout: per_fold) one per fold."""
    if init not in RUNS:
        file = config["initialisations"][init].get("file")
        return [file] if file else []
    return [
        result(f"pretraining/{init}/{study.repeat_of(int(seed), config)}{cohort}backbone.safetensors")
        for cohort in study.seed_cohorts(seed, config)
    ]


def table_files():
    """Every table in every format."""
    return [result(f"tables/{table}.{suffix}") for table in TABLES for suffix in ("csv", "md", "tex", "html")]


def require_weights(jobs):
    """Refuse to start while a network that the planned jobs read is neither here nor to be had."""
    needed = {str(file) for job in jobs for file in [*job.input, *job.output]}
    try:
        require_files(config, needed)
    except UserError as error:
        raise WorkflowError(str(error)) from None


def record_provenance():
    """Write the RO-Crate of a study whose report, the last artefact, is there."""
    if Path(result("report.html")).exists():
        write_crate(config, Path(RESULTS))


# The drawn frames, where the study is one of phantoms: what reads frames waits for them.
DRAWN_FRAMES = [result("phantoms/frames.csv")] if ORIGIN else []


def frames_of(real_set):
    """Where the frames of a real set are listed (`manifest`) and lie (`root`): the study's own, or an external set's."""
    folder, *names = Path(real_set).parts or ("",)
    return {**DATA, **EXTERNAL[names[0]]} if names and folder == "external" else DATA


def drawn_frames(wildcards):
    """`DRAWN_FRAMES` of the manifest that a real set is listed in."""
    source = f"{wildcards.real_set}/" if wildcards.real_set in EXTERNAL_SETS else ""
    return [file.replace("phantoms/", f"phantoms/{source}") for file in DRAWN_FRAMES]


def mix(wildcards, suffix):
    """The stores (.npy) or indexes (.csv) of a run's sets; synthetic ones belong to the run's cohort."""
    return [
        result(f"views/{wildcards.cohort if name in SYNTHETIC_SETS else ''}{name}{suffix}")
        for name in RUNS[wildcards.run]["sets"]
    ]


def generator(wildcards):
    """The folder of the diffusion model: the study's own, or one that the config brings."""
    return config["diffusion"]["model"] or result(f"diffusion/{wildcards.cohort}model")


def training_views(wildcards):
    """What a cohort's generator learns from: the labelled views, or those with canaries."""
    return result("canaries/views.npy" if wildcards.cohort == study.CANARIES else "views/labelled.npy")


def snapshot_every(wildcards):
    """Steps between the snapshots that a training run of the generator keeps; 0: none."""
    return config["diffusion"]["snapshot_every"] if SELECTING or wildcards.cohort == study.CANARIES else 0


# inception; timm:<model>; encoder:<pretraining>, which is the study's own backbone.
EMBEDDING_KIND, _, _model = config["embedding"]["network"].partition(":")
EMBEDDING_BACKBONE = {"timm": _model, "encoder": study.backbone_of(_model, config) if _model in RUNS else ""}.get(
    EMBEDDING_KIND, config["model"]["backbone"]
)

EMBEDDING_NORMALISATION = study.normalisation_of(_model, config) if EMBEDDING_KIND == "encoder" else []


def embedding_weights(wildcards):
    """The embedding network's weights: Inception's, or the encoder that the cohort pretrained."""
    network = config["embedding"]["network"]
    if network == "inception":
        return config["embedding"]["inception"]["file"]
    if network.startswith("timm:"):
        return config["embedding"]["timm"]["file"]
    run = network.removeprefix("encoder:")
    return result(f"pretraining/{run}/{wildcards.cohort}backbone.safetensors")


def experiment_weights(wildcards):
    """The weights that an experiment's folds start from."""
    return start_weights(EXPERIMENTS[wildcards.experiment].init, wildcards.seed)


def made_of(wildcards):
    """What the training set of an experiment is made of; empty where it has real views alone."""
    return study.training_set(EXPERIMENTS[wildcards.experiment], config)


def synthetic_training(wildcards, suffix):
    """The synthetic views (.npy) or indexes (.csv) that an experiment's folds learn: none, one, or one per fold."""
    if not (parts := made_of(wildcards)):
        return []
    return [result(f"views/{cohort}{parts['set']}{suffix}") for cohort in study.seed_cohorts(wildcards.seed, config)]


def labeller_weights(wildcards):
    """The networks that label the synthetic views of an experiment, one per fold, if networks do."""
    experiment = study.labeller(EXPERIMENTS[wildcards.experiment], config)
    return [
        result(f"finetuning/{experiment.name}/seed{wildcards.seed}_fold{fold}.safetensors")
        for fold in (FOLDS if experiment else [])
    ]


def experiment_labels(wildcards):
    """The label set that an experiment learns; some differ by seed."""
    name = EXPERIMENTS[wildcards.experiment].labels
    return result(f"labels/{name}/seed{wildcards.seed}.csv" if label_set(name).per_seed else f"labels/{name}.csv")


def experiment_folds(wildcards):
    """The folds of an experiment: the study's, or those that deal views to measure the leak."""
    by_view = EXPERIMENTS[wildcards.experiment].variant == study.VIEW_SPLIT
    return result(f"folds/{'by_view/' if by_view else ''}seed{wildcards.seed}.csv")


def seed_files(files, wildcards):
    """What `files`, a function of an experiment and a seed, names for each seed of the study, one seed after the other."""
    found = [files(SimpleNamespace(experiment=wildcards.experiment, seed=seed)) for seed in SEEDS]
    return [file for each in found for file in ([each] if isinstance(each, str) else each)]


def single_views(wildcards):
    """The predictions of single views that fused ones are made from."""
    name = next(part for part in wildcards.fused.split("/") if part in EXPERIMENTS)
    return result(f"{wildcards.fused}.csv".replace(name, EXPERIMENTS[name].single.name))


def vote_settings(variant):
    """The vote's settings, with as many exceedances as the ending of a votes file asks for."""
    settings = config["audit"]["vote"]
    return {**settings, "exceedances": int(variant.removeprefix("_x"))} if variant else settings


def votes_of_labels(wildcards):
    """The votes that a label set is made from."""
    return result(f"audit/votes{label_set(wildcards.labels).votes}.csv")


def policy_of_labels(wildcards):
    """What a label set does with suspicious labels: filtered, flipped, reviewed."""
    return label_set(wildcards.labels).policy


def label_sets_of(protocol):
    """Pattern of the study's label sets of one protocol, but for the original labels."""
    names = [name for name in sorted(LABEL_SETS) if label_set(name).protocol == protocol]
    return "|".join(name for name in names if name != "complete") or "none"


def predictions_of(experiments):
    """The predictions of experiments, all seeds of one before the next."""
    return [result(f"finetuning/{experiment}/seed{seed}.csv") for experiment in experiments for seed in SEEDS]


def table_experiments(table):
    """The experiments that a table shows, each once, in the order of its rows; none without a table."""
    rows = config["tables"][table]["rows"] if table else []
    return list(dict.fromkeys(study.experiment_of(row, config).name for row in rows))


def trained_experiments(table):
    """Those of a table's experiments that train networks."""
    return [name for name in table_experiments(table) if EXPERIMENTS[name].is_trained]


def table_parameters(table):
    """The parameter files of the pretraining runs that a table shows; they know how many views each run saw."""
    starts = dict.fromkeys(row["init"] for row in (config["tables"][table]["rows"] if table else []))
    return [result(f"pretraining/{init}/{COHORTS[0]}parameters.json") for init in starts if init in RUNS]


def table_rows(table):
    """The rows of a table as the table stage takes them, JSON."""
    rows = [study.table_row(row, table, config) for row in (config["tables"][table]["rows"] if table else [])]
    for row in rows:
        if row["init"] in RUNS:
            row["parameters"] = result(f"pretraining/{row['init']}/{COHORTS[0]}parameters.json")
    return json.dumps(rows, ensure_ascii=False)


# Experiments whose network stays frozen, by the name that their rows have.
PROBES = study.probe_titles(config)
CLASSIFIER = [experiment.name for experiment in study.classifier_experiments(config)]
SHOWN_EXPERIMENTS = list(dict.fromkeys(name for table in SHOWN_TABLES for name in table_experiments(table)))
PNG_FOLDERS = [result(f"synthesis/{cohort}png") for cohort in COHORTS] if config["synthesis"]["png"] else []
# A set that others made is theirs to release.
RELEASES = [] if SYNTHETIC_FOLDER else [result(f"release/{cohort}synthetic.zip") for cohort in COHORTS]
