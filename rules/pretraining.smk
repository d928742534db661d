# Contrastive pretraining per data mix (paper, Sec. 4.1).
AUGMENTED = study.distinct_augmentations(config)


rule pretrain:
    input:
        views=lambda wildcards: mix(wildcards, ".npy"),
        index=lambda wildcards: mix(wildcards, ".csv"),
        folds=left_out_folds,
        weights=lambda wildcards: start_weights(RUNS[wildcards.run]["init"], seed=None),
    output:
        backbone=result("pretraining/{run}/{repeat}{cohort}backbone.safetensors"),
        heads=result("pretraining/{run}/{repeat}{cohort}heads.safetensors"),
        metrics=result("pretraining/{run}/{repeat}{cohort}metrics.jsonl"),
        sheet=result("pretraining/{run}/{repeat}{cohort}sheet.npy"),
        parameters=result("pretraining/{run}/{repeat}{cohort}parameters.json"),
    log:
        log_of("pretrain/{run}/{repeat}{cohort}pretrain"),
    conda:
        "../envs/training.yaml"
    threads: 1
    resources:
        runtime=0,
        gpu=1,
    params:
        **stage(
            "pretraining.pretrain",
            resume="{run}/{repeat}{cohort}run",
            shared=True,
            settings=lambda wildcards: study.repeated_recipe(wildcards.run, wildcards.repeat, config),
            organs=DATA["organs"],
            set_shares=lambda wildcards: [
                RUNS[wildcards.run]["weights"].get(name, 1) for name in RUNS[wildcards.run]["sets"]
            ],
            exclude_fold=excluded_fold,
            backbone=lambda wildcards: study.backbone_of(wildcards.run, config),
            normalisation=lambda wildcards: study.normalisation_of(wildcards.run, config),
            layout=lambda wildcards: start_layout(RUNS[wildcards.run]["init"]),
        ),
    shell:
        "{params.command} --log {log:q}"


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
    localrule: True
    conda:
        "../envs/evaluation.yaml"
    params:
        **stage("pretraining.draw_augmented", names=AUGMENTED, origin=ORIGIN),
    shell:
        "{params.command} --log {log:q}"


rule draw_training:
    input:
        metrics=[
            *[result(f"pretraining/{run}/{COHORTS[0]}metrics.jsonl") for run in PRETRAINED],
            *([result(f"diffusion/{COHORTS[0]}metrics.jsonl")] if TRAINS_GENERATOR else []),
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
    localrule: True
    conda:
        "../envs/evaluation.yaml"
    params:
        **stage(
            "pretraining.draw_training",
            names=[*PRETRAINED, *(["diffusion"] if TRAINS_GENERATOR else [])],
            origin=ORIGIN,
        ),
    shell:
        "{params.command} --log {log:q}"
