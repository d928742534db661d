# Figures, and the report that gathers them with the tables.
CALIBRATION = config["figures"]["calibration"] if config["figures"]["calibration"] in SHOWN_TABLES else ""
AUGMENTED = study.distinct_augmentations(config)
FIGURES = [
    "figure1",
    *[f"views_{name}" for name in REAL_SETS],
    "near_duplicates",
    *[f"{cohort}figure4" for cohort in COHORTS],
    *[f"{cohort}closest_pairs" for cohort in COHORTS],
    "audit_votes",
    "audit_sweep",
    *(["audit_scores"] if ORIGIN else []),
    *(["augmented"] if AUGMENTED else []),
    "training",
    *(["selection"] if SELECTING else []),
    *(["calibration"] if CALIBRATION else []),
    *(["figure5"] if config["figures"]["explained"] else []),
]


localrules:
    draw_frames,
    draw_views,
    draw_filter,
    draw_closest_pairs,
    draw_votes,
    draw_augmented,
    draw_training,
    draw_selection,
    draw_calibration,
    make_report,


rule draw_frames:
    input:
        manifest=DATA["manifest"],
        phantoms=frames_of_phantoms,
        key=KEY,
    output:
        figure=report(
            result("figures/figure1.png"),
            category="Data",
            labels={"figure": "1: frames and crop boxes"},
            caption="../docs/captions/figure1.rst",
        ),
    log:
        log_of("draw_frames"),
    conda:
        "../envs/evaluation.yaml"
    params:
        root=quote(DATA["root"]),
        profiles=quote(json.dumps(DATA["crop_profiles"])),
        key=KEY_FLAG,
        shown=config["figures"]["frames"],
        blur="" if config["figures"]["blur"] else "--no-blur",
        origin=ORIGIN_FLAG,
        code=code_version("frame_figures"),
    shell:
        "exec python -m workflow_scripts.frame_figures boxes --manifest {input.manifest:q} {params.key}"
        " --root {params.root} --profiles {params.profiles} --count {params.shown} {params.blur} {params.origin}"
        " --output {output.figure:q} --log {log:q}"


rule draw_views:
    input:
        views=result("views/{real_set}.npy"),
        index=result("views/{real_set}.csv"),
    output:
        figure=report(
            result("figures/views_{real_set}.png"),
            category="Data",
            labels={"figure": "views: {real_set}"},
            caption="../docs/captions/views.rst",
        ),
    log:
        log_of("draw_views/{real_set}"),
    conda:
        "../envs/evaluation.yaml"
    params:
        shown=config["figures"]["views_per_sheet"],
        origin=ORIGIN_FLAG,
        code=code_version("frame_figures"),
    shell:
        "exec python -m workflow_scripts.frame_figures sheet --views {input.views:q}"
        " --index {input.index:q} --count {params.shown} --title {wildcards.real_set} {params.origin}"
        " --output {output.figure:q} --log {log:q}"


rule draw_filter:
    input:
        real=result("embedding/{cohort}labelled.npy"),
        synthetic=result("embedding/{cohort}synthetic.npy"),
        views=result("views/{cohort}synthetic.npy"),
        filter=result("synthesis/{cohort}filter.csv"),
        curve=result("synthesis/{cohort}filter_curve.csv"),
    output:
        figure=report(
            result("figures/{cohort}figure4.png"),
            category="Synthetic views",
            labels={"figure": "4: kept and discarded"},
            caption="../docs/captions/figure4.rst",
        ),
    log:
        log_of("draw_filter/{cohort}figure4"),
    conda:
        "../envs/evaluation.yaml"
    params:
        origin=ORIGIN_FLAG,
        code=code_version("filter_figure"),
    shell:
        "exec python -m workflow_scripts.filter_figure --real {input.real:q}"
        " --synthetic {input.synthetic:q} --views {input.views:q} --filter {input.filter:q}"
        " --curve {input.curve:q} {params.origin} --output {output.figure:q} --log {log:q}"


rule draw_closest_pairs:
    input:
        real=result("views/labelled.npy"),
        real_index=result("views/labelled.csv"),
        synthetic=result("views/{cohort}synthetic.npy"),
        privacy=result("synthesis/{cohort}privacy.csv"),
    output:
        figure=report(
            result("figures/{cohort}closest_pairs.png"),
            category="Synthetic views",
            labels={"figure": "closest pairs"},
            caption="../docs/captions/closest_pairs.rst",
        ),
    log:
        log_of("draw_closest_pairs/{cohort}pairs"),
    conda:
        "../envs/evaluation.yaml"
    params:
        origin=ORIGIN_FLAG,
        code=code_version("privacy_figure"),
    shell:
        "exec python -m workflow_scripts.privacy_figure --real-views {input.real:q}"
        " --real-index {input.real_index:q} --synthetic-views {input.synthetic:q}"
        " --privacy {input.privacy:q} {params.origin} --output {output.figure:q} --log {log:q}"


rule draw_votes:
    input:
        votes=result("audit/votes.csv"),
        index=result("views/labelled.csv"),
        manifest=DATA["manifest"] if ORIGIN else [],
        key=KEY if ORIGIN else [],
    output:
        figure=report(
            result("figures/audit_votes.png"),
            category="Label audit",
            labels={"figure": "votes"},
            caption="../docs/captions/audit_votes.rst",
        ),
    log:
        log_of("draw_votes"),
    conda:
        "../envs/evaluation.yaml"
    params:
        # Only phantoms know their true class; the paper's counts belong beside real views only.
        truth=f"--manifest {quote(DATA['manifest'])} {KEY_FLAG}" if ORIGIN else "--reference",
        origin=ORIGIN_FLAG,
        code=code_version("audit_figure"),
    shell:
        "exec python -m workflow_scripts.audit_figure --votes {input.votes:q} --index {input.index:q}"
        " {params.truth} {params.origin} --output {output.figure:q} --log {log:q}"


rule draw_augmented:
    input:
        sheets=[result(f"pretraining/{run}/{COHORTS[0]}sheet.npy") for run in AUGMENTED],
    output:
        figure=report(
            result("figures/augmented.png"),
            category="Training",
            labels={"figure": "views of pretraining"},
            caption="../docs/captions/augmented.rst",
        ),
    log:
        log_of("draw_augmented"),
    conda:
        "../envs/evaluation.yaml"
    params:
        names=" ".join(AUGMENTED),
        origin=ORIGIN_FLAG,
        code=code_version("augmented_figure"),
    shell:
        "exec python -m workflow_scripts.augmented_figure --names {params.names} --sheets {input.sheets:q}"
        " {params.origin} --output {output.figure:q} --log {log:q}"


rule draw_training:
    input:
        metrics=[
            *[result(f"pretraining/{run}/{COHORTS[0]}metrics.jsonl") for run in PRETRAINED],
            *([result(f"diffusion/{COHORTS[0]}metrics.jsonl")] if not READY_MODEL else []),
        ],
    output:
        figure=report(
            result("figures/training.png"),
            category="Training",
            labels={"figure": "loss curves"},
            caption="../docs/captions/training.rst",
        ),
    log:
        log_of("draw_training"),
    conda:
        "../envs/evaluation.yaml"
    params:
        names=" ".join([*PRETRAINED, *(["diffusion"] if not READY_MODEL else [])]),
        origin=ORIGIN_FLAG,
        code=code_version("training_figure"),
    shell:
        "exec python -m workflow_scripts.training_figure --names {params.names} --metrics {input.metrics:q}"
        " {params.origin} --output {output.figure:q} --log {log:q}"


rule draw_selection:
    input:
        measures=result(f"diffusion/{COHORTS[0]}monitor.csv"),
    output:
        figure=report(
            result("figures/selection.png"),
            category="Training",
            labels={"figure": "checkpoints of the generator"},
            caption="../docs/captions/selection.rst",
        ),
    log:
        log_of("draw_selection"),
    conda:
        "../envs/evaluation.yaml"
    params:
        select=config["diffusion"]["select"],
        origin=ORIGIN_FLAG,
        code=code_version("selection_figure"),
    shell:
        "exec python -m workflow_scripts.selection_figure --measures {input.measures:q} --select {params.select}"
        " {params.origin} --output {output.figure:q} --log {log:q}"


rule draw_calibration:
    input:
        predictions=predictions_of(table_experiments(CALIBRATION)),
        parameters=table_parameters(CALIBRATION),
    output:
        figure=report(
            result("figures/calibration.png"),
            category="Classification",
            labels={"figure": "calibration"},
            caption="../docs/captions/calibration.rst",
        ),
    log:
        log_of("draw_calibration"),
    conda:
        "../envs/evaluation.yaml"
    params:
        rows=table_rows(CALIBRATION),
        experiments=" ".join(table_experiments(CALIBRATION)),
        classes=CLASSES,
        origin=ORIGIN_FLAG,
        code=code_version("calibration_figure"),
    shell:
        "exec python -m workflow_scripts.calibration_figure --rows {params.rows}"
        " --experiments {params.experiments} --predictions {input.predictions:q} --classes {params.classes}"
        " {params.origin} --output {output.figure:q} --log {log:q}"


rule explain:
    input:
        views=result("views/labelled.npy"),
        index=result("views/labelled.csv"),
        folds=result(f"folds/seed{SEEDS[0]}.csv"),
        weights=[
            result(f"finetuning/{experiment.name}/seed{SEEDS[0]}_fold0.safetensors")
            for experiment in study.explained_experiments(config).values()
        ],
    output:
        figure=report(
            result("figures/figure5.png"),
            category="Classification",
            labels={"figure": "5: Grad-CAM++"},
            caption="../docs/captions/figure5.rst",
        ),
        shares=result("figures/figure5.csv"),
    log:
        log_of("explain"),
    conda:
        "../envs/training.yaml"
    threads: 1
    resources:
        gpu=1,
    params:
        arms=" ".join(study.explained_experiments(config)),
        shown=config["figures"]["explained_views"],
        backbone=config["model"]["backbone"],
        classes=CLASSES,
        origin=ORIGIN_FLAG,
        code=code_version("explain"),
    shell:
        "exec python -m workflow_scripts.explain --views {input.views:q} --index {input.index:q}"
        " --folds {input.folds:q} --fold 0 --arms {params.arms} --weights {input.weights:q}"
        " --backbone {params.backbone} --classes {params.classes} --count {params.shown} {params.origin}"
        " --output {output.figure:q} --output-shares {output.shares:q} --threads {threads} --log {log:q}"


# A Snakemake inside Snakemake: the report can only be made when everything in it exists. --nolock, since the outer
# one holds the lock; it starts no job.
rule make_report:
    input:
        tables=[result(f"tables/{table}.html") for table in TABLES],
        claims=result("claims.html"),
        figures=[result(f"figures/{figure}.png") for figure in FIGURES],
    output:
        html=result("report.html"),
    log:
        log_of("make_report"),
    conda:
        "../envs/evaluation.yaml"
    params:
        snakefile=quote(str(Path(workflow.main_snakefile).resolve())),
        config=CONFIG_FLAGS,
    shell:
        "snakemake --snakefile {params.snakefile} {params.config} --nolock --cores 1"
        " --report {output.html:q} tables figures 2> {log:q}"
