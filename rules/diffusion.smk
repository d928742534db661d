# The generator: held-out patients, training, sampling in shards (paper, Sec. 4.2).
SHARDS = range(config["synthesis"]["shards"])


rule hold_out_patients:
    input:
        index=result("views/labelled.csv"),
        folds=left_out_folds,
    output:
        holdout=result("diffusion/{cohort}holdout.csv"),
    log:
        log_of("hold_out_patients/{cohort}holdout"),
    localrule: True
    conda:
        "../envs/data.yaml"
    params:
        **stage(
            "diffusion.hold_out_patients",
            share=config["diffusion"]["holdout_patients"],
            seed=config["diffusion"]["recipe"]["seed"],
            exclude_fold=excluded_fold,
        ),
    shell:
        "{params.command} --log {log:q}"


if TRAINS_GENERATOR:

    rule train_diffusion:
        input:
            views=training_views,
            index=result("views/labelled.csv"),
            holdout=result("diffusion/{cohort}holdout.csv"),
            folds=left_out_folds,
        output:
            model=directory(result("diffusion/{cohort}trained")),
            metrics=result("diffusion/{cohort}metrics.jsonl"),
        log:
            log_of("train_diffusion/{cohort}train"),
        # The longest chain of the study begins here.
        priority: 1
        conda:
            "../envs/diffusion.yaml"
        threads: 1
        resources:
            runtime=0,
            gpu=1,
        params:
            **stage(
                "diffusion.train_diffusion",
                resume="{cohort}run",
                shared=True,
                settings=config["diffusion"]["recipe"],
                snapshot_every=snapshot_every,
                exclude_fold=excluded_fold,
                asked_classes=ASKED_CLASSES,
                origin=ORIGIN,
            ),
        shell:
            "{params.command} --log {log:q}"


if SYNTHETIC_FOLDER:

    rule import_synthetic:
        input:
            folder=SYNTHETIC_FOLDER,
        output:
            views=result("views/{cohort}synthetic.npy"),
            index=result("views/{cohort}synthetic.csv"),
        log:
            log_of("import_synthetic/{cohort}import"),
        localrule: True
        conda:
            "../envs/data.yaml"
        params:
            **stage("diffusion.import_synthetic", organ=DATA["target_organ"], size=DATA["size"]),
        shell:
            "{params.command} --log {log:q}"

else:

    rule sample_shard:
        input:
            model=generator,
        output:
            shard=result("synthesis/{cohort}shards/{shard}.npy"),
        log:
            log_of("sample_shard/{cohort}{shard}"),
        conda:
            "../envs/diffusion.yaml"
        threads: 1
        resources:
            runtime=0,
            gpu=1,
        params:
            **stage(
                "diffusion.sample_shard",
                resume="{cohort}{shard}",
                settings=config["synthesis"]["recipe"],
                shard=wildcard("shard"),
                shard_count=len(SHARDS),
                images=config["synthesis"]["images"],
                size=DATA["size"],
                asked_classes=ASKED_CLASSES,
            ),
        shell:
            "{params.command} --log {log:q}"

    rule join_shards:
        input:
            shards=[result(f"synthesis/{{cohort}}shards/{shard}.npy") for shard in SHARDS],
        output:
            views=result("views/{cohort}synthetic.npy"),
            index=result("views/{cohort}synthetic.csv"),
        log:
            log_of("join_shards/{cohort}join"),
        localrule: True
        conda:
            "../envs/data.yaml"
        params:
            **stage("diffusion.join_shards", organ=DATA["target_organ"], asked_classes=ASKED_CLASSES),
        shell:
            "{params.command} --log {log:q}"


rule export_png:
    input:
        views=result("views/{cohort}synthetic.npy"),
        index=result("views/{cohort}synthetic.csv"),
    output:
        folder=directory(result("synthesis/{cohort}png")),
    log:
        log_of("export_png/{cohort}png"),
    localrule: True
    conda:
        "../envs/data.yaml"
    params:
        **stage("diffusion.export_png", origin=ORIGIN),
    shell:
        "{params.command} --log {log:q}"
