# Fine-tuning over folds and seeds, the baselines beside it, and what the classifiers look at (paper, Sec. 4.3).
NETWORKS = [name for name, experiment in EXPERIMENTS.items() if experiment.is_trained]
BASELINE_EXPERIMENTS = [name for name, experiment in EXPERIMENTS.items() if experiment.is_baseline]
FUSED = "|".join(name for name, experiment in EXPERIMENTS.items() if experiment.is_fused) or "none"
EXPLAINED = list(study.explained_experiments(config).values())


rule finetune:
    input:
        views=result("views/labelled.npy"),
        index=result("views/labelled.csv"),
        labels=experiment_labels,
        folds=experiment_folds,
        weights=experiment_weights,
        synthetic_views=lambda wildcards: synthetic_training(wildcards, ".npy"),
        synthetic_index=lambda wildcards: synthetic_training(wildcards, ".csv"),
        labellers=labeller_weights,
    output:
        predictions=result("finetuning/{experiment}/seed{seed}.csv"),
        weights=[result(f"finetuning/{{experiment}}/seed{{seed}}_fold{fold}.safetensors") for fold in FOLDS],
        training=result("finetuning/{experiment}/seed{seed}_training.csv"),
    log:
        log_of("finetune/{experiment}/seed{seed}"),
    wildcard_constraints:
        experiment="|".join(NETWORKS) or "none",
    conda:
        "../envs/training.yaml"
    threads: 1
    resources:
        runtime=0,
        gpu=1,
    params:
        **stage(
            "finetuning.finetune",
            resume="{experiment}/seed{seed}",
            settings=lambda wildcards: study.finetuning_recipe(EXPERIMENTS[wildcards.experiment], config),
            seed=wildcard("seed"),
            classes=CLASSES,
            backbone=lambda wildcards: study.backbone_of(EXPERIMENTS[wildcards.experiment].init, config),
            normalisation=lambda wildcards: study.normalisation_of(EXPERIMENTS[wildcards.experiment].init, config),
            layout=lambda wildcards: start_layout(EXPERIMENTS[wildcards.experiment].init),
            training_percent=lambda wildcards: study.training_percent(EXPERIMENTS[wildcards.experiment], config),
            synthetic_percent=lambda wildcards: made_of(wildcards).get("synthetic_percent"),
            synthetic_labels=lambda wildcards: made_of(wildcards).get("labels"),
        ),
    shell:
        "{params.command} --log {log:q}"


if PROBES:

    rule probe:
        input:
            views=result("views/labelled.npy"),
            index=result("views/labelled.csv"),
            labels=lambda wildcards: seed_files(experiment_labels, wildcards),
            folds=lambda wildcards: seed_files(experiment_folds, wildcards),
            weights=lambda wildcards: seed_files(experiment_weights, wildcards),
            external_views=[result(f"views/{name}.npy") for name in EXTERNAL_SETS],
            external_index=[result(f"views/{name}.csv") for name in EXTERNAL_SETS],
        output:
            predictions=[result(f"finetuning/{{experiment}}/seed{seed}.csv") for seed in SEEDS],
            external=[result(f"external/{name}/{{experiment}}.csv") for name in EXTERNAL],
            efficiency=result("finetuning/{experiment}/efficiency.csv"),
        log:
            log_of("probe/{experiment}"),
        wildcard_constraints:
            experiment="|".join(PROBES),
        conda:
            "../envs/training.yaml"
        threads: 1
        resources:
            gpu=1,
        params:
            **stage(
                "finetuning.probe",
                settings=config["finetuning"]["probe"],
                seeds=SEEDS,
                classes=CLASSES,
                backbone=lambda wildcards: study.backbone_of(EXPERIMENTS[wildcards.experiment].init, config),
                normalisation=lambda wildcards: study.normalisation_of(EXPERIMENTS[wildcards.experiment].init, config),
                layout=lambda wildcards: start_layout(EXPERIMENTS[wildcards.experiment].init),
            ),
        shell:
            "{params.command} --log {log:q}"


rule predict_baseline:
    input:
        views=result("views/labelled.npy"),
        index=result("views/labelled.csv"),
        labels=experiment_labels,
        folds=experiment_folds,
    output:
        predictions=result("finetuning/{experiment}/seed{seed}.csv"),
    log:
        log_of("predict_baseline/{experiment}/seed{seed}"),
    wildcard_constraints:
        experiment="|".join(BASELINE_EXPERIMENTS) or "none",
    conda:
        "../envs/evaluation.yaml"
    params:
        **stage(
            "finetuning.predict_baseline",
            baseline=lambda wildcards: EXPERIMENTS[wildcards.experiment].init,
            seed=wildcard("seed"),
            classes=CLASSES,
        ),
    shell:
        "{params.command} --log {log:q}"


# Both views of an organ side together, from what the networks of single views say: of the study, and of external patients.
rule fuse_views:
    input:
        predictions=single_views,
        index=lambda wildcards: result(
            "views/labelled.csv"
            if wildcards.fused.startswith("finetuning/")
            else f"views/{Path(wildcards.fused).parent}.csv"
        ),
    output:
        predictions=result("{fused}.csv"),
    log:
        log_of("fuse_views/{fused}"),
    wildcard_constraints:
        fused=rf"finetuning/({FUSED})/seed\d+|({'|'.join(EXTERNAL_SETS) or 'none'})/({FUSED})",
    localrule: True
    conda:
        "../envs/evaluation.yaml"
    params:
        **stage("finetuning.fuse_views", classes=CLASSES),
    shell:
        "{params.command} --log {log:q}"


# External patients: the networks of every fold and seed predict each of their views.
rule predict_external:
    input:
        views=result("views/external/{external}.npy"),
        index=result("views/external/{external}.csv"),
        weights=lambda wildcards: [
            result(f"finetuning/{wildcards.experiment}/seed{seed}_fold{fold}.safetensors")
            for seed in SEEDS
            for fold in FOLDS
        ],
    output:
        predictions=result("external/{external}/{experiment}.csv"),
    log:
        log_of("predict_external/{external}/{experiment}"),
    wildcard_constraints:
        experiment="|".join(NETWORKS) or "none",
    conda:
        "../envs/training.yaml"
    threads: 1
    resources:
        gpu=1,
    params:
        **stage("finetuning.predict_external", classes=CLASSES),
    shell:
        "{params.command} --log {log:q}"


rule predict_external_baseline:
    input:
        views=result("views/external/{external}.npy"),
        index=result("views/external/{external}.csv"),
        real_views=result("views/labelled.npy"),
        real_index=result("views/labelled.csv"),
        labels=lambda wildcards: seed_files(experiment_labels, wildcards),
        folds=lambda wildcards: seed_files(experiment_folds, wildcards),
    output:
        predictions=result("external/{external}/{experiment}.csv"),
    log:
        log_of("predict_external_baseline/{external}/{experiment}"),
    wildcard_constraints:
        experiment="|".join(BASELINE_EXPERIMENTS) or "none",
    conda:
        "../envs/evaluation.yaml"
    params:
        **stage(
            "finetuning.predict_external_baseline",
            baseline=lambda wildcards: EXPERIMENTS[wildcards.experiment].init,
            seeds=SEEDS,
            classes=CLASSES,
        ),
    shell:
        "{params.command} --log {log:q}"


if EXPLAINED:

    rule explain:
        input:
            views=result("views/labelled.npy"),
            index=result("views/labelled.csv"),
            folds=result(f"folds/seed{SEEDS[0]}.csv"),
            masks=config["figures"]["masks"] or [],
            weights=[result(f"finetuning/{arm.name}/seed{SEEDS[0]}_fold0.safetensors") for arm in EXPLAINED],
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
            **stage(
                "finetuning.explain",
                fold=0,
                arms=list(study.explained_experiments(config)),
                shown=config["figures"]["explained_views"],
                backbone=study.backbone_of(config["figures"]["explained"], config),
                classes=CLASSES,
                origin=ORIGIN,
            ),
        shell:
            "{params.command} --log {log:q}"
