# The named targets: everything that a stage makes (`all` is in the Snakefile), and the report that gathers it.
FIGURES = [
    "figure1",
    *[f"views_{name}" for name in [*REAL_SETS, *EXTERNAL_SETS]],
    *[f"text_{name}" for name in [*REAL_SETS, *EXTERNAL_SETS]],
    "near_duplicates",
    *[f"{cohort}figure4" for cohort in COHORTS],
    *[f"{cohort}closest_pairs" for cohort in COHORTS],
    *([] if SYNTHETIC_FOLDER else [f"{cohort}text_synthetic" for cohort in COHORTS]),
    "audit_votes",
    "audit_sweep",
    *(["audit_scores"] if ORIGIN else []),
    *(["augmented"] if AUGMENTED else []),
    "training",
    *(["selection"] if SELECTING else []),
    *(["calibration"] if CALIBRATION else []),
    *(["label_efficiency"] if PROBES else []),
    *[f"forest_{table}" for table in SHOWN_TABLES],
    *(["learning_curve"] if LEARNING else []),
    *(["synthetic"] if "table5" in SHOWN_TABLES else []),
    *(["operating_points"] if LEVELS else []),
    *(["figure5"] if EXPLAINED else []),
    *[f"{name}/{table}{kind}" for name in EXTERNAL_SETS for table in SHOWN_TABLES for kind in ("", "_calibration")],
]


# A Snakemake inside Snakemake: the report can only be made when everything in it exists. --nolock, since the outer
# one holds the lock; it starts no job.
rule make_report:
    input:
        tables=[result(f"tables/{table}.html") for table in TABLES],
        claims=result("claims.html"),
        canaries=[result("canaries/canaries.html")] if CANARIES else [],
        figures=[result(f"figures/{figure}.png") for figure in FIGURES],
    output:
        html=result("report.html"),
    log:
        log_of("make_report"),
    localrule: True
    conda:
        "../envs/evaluation.yaml"
    params:
        snakefile=quote(str(Path(workflow.main_snakefile).resolve())),
        config=CONFIG_FLAGS,
    shell:
        "snakemake --snakefile {params.snakefile} {params.config} --workflow-profile none --nolock --cores 1"
        " --report {output.html:q} {input:q} 2> {log:q}"


rule crop:
    input:
        [result(f"views/{name}.npy") for name in [*REAL_SETS, *EXTERNAL_SETS]],
    localrule: True


rule audit:
    input:
        result("audit/votes.csv"),
        result("review.html"),
        [result("audit/agreement.csv")] if config["audit"]["decisions"] else [],
        result("tables/shortcuts.html"),
        [result(f"labels/{policy}.csv") for policy in ("complete", "filtered", "flipped")],
    localrule: True


rule diffusion:
    input:
        [] if SYNTHETIC_FOLDER else [READY_MODEL or result(f"diffusion/{cohort}model") for cohort in COHORTS],
    localrule: True


rule synthesis:
    input:
        [result(f"synthesis/{cohort}{name}") for cohort in COHORTS for name in ("metrics.csv", "privacy.json")],
        [result("canaries/canaries.html")] if CANARIES else [],
        RELEASES,
        PNG_FOLDERS,
    localrule: True


rule pretraining:
    input:
        [
            result(f"pretraining/{run}/{repeat}{cohort}backbone.safetensors")
            for run in PRETRAINED
            for repeat in study.repeats(config)
            for cohort in COHORTS
        ],
    localrule: True


rule finetuning:
    input:
        [result(f"finetuning/{experiment}/seed{seed}.csv") for experiment in EXPERIMENTS for seed in SEEDS],
    localrule: True


rule classifier:
    input:
        [result("classifier")] if CLASSIFIER else [],
    localrule: True


rule tables:
    input:
        table_files(),
        result("claims.html"),
    localrule: True


rule figures:
    input:
        [result(f"figures/{figure}.png") for figure in FIGURES],
    localrule: True


rule report:
    input:
        result("report.html"),
        result("index.html"),
    localrule: True
