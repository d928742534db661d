# From raw ultrasound frames to the tables of the paper. Start it from this folder:
#   snakemake -n                     what would be done
#   snakemake --cores 8              everything, on this machine
#   snakemake --profile slurm        everything, on a cluster
#   snakemake --cores 8 tables       one of the named targets of rules/targets.smk
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.0")


include: "rules/repository.smk"


# Before config.yaml is read, since reading a template runs it.
from workflow_scripts.core.errors import UserError
from workflow_scripts.study.config.templates import refuse_templates

try:
    refuse_templates([Path("config.yaml"), *map(Path, workflow.overwrite_configfiles)])
except UserError as error:
    raise WorkflowError(str(error)) from None


configfile: "config.yaml"


# Used with --sdm apptainer alone; envs/tusflow.def is its recipe.
container: "tusflow.sif"


report: "docs/captions/workflow.rst"


include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/audit.smk"
include: "rules/diffusion.smk"
include: "rules/synthesis.smk"
include: "rules/privacy.smk"
include: "rules/pretraining.smk"
include: "rules/finetuning.smk"
include: "rules/classifier.smk"
include: "rules/tables.smk"
include: "rules/targets.smk"


rule all:
    input:
        table_files(),
        [result(f"figures/{figure}.png") for figure in FIGURES],
        RELEASES,
        PNG_FOLDERS,
        result("review.html"),
        READING,
        result("claims.html"),
        result("report.html"),
        result("index.html"),
    localrule: True


# Before the first job of a run: are the downloaded networks that it needs at hand, or can they be fetched?
onstart:
    cancel_orphans(Path(".snakemake"))
    note_run(Path(".snakemake"), log)
    remove_parts(Path(RESULTS))
    require_weights(workflow.dag.needrun_jobs())


# When everything of the study is there: what it was made of, with and at what cost. Not a rule, since it counts the costs of all.
onsuccess:
    record_provenance()
