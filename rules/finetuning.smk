# Fine-tuning over folds and seeds, the baselines beside it, and what the classifiers look at (paper, Sec. 4.3).
NETWORKS = [name for name, experiment in EXPERIMENTS.items() if not experiment.is_baseline]
BASELINE_EXPERIMENTS = [name for name in EXPERIMENTS if name not in NETWORKS]
EXPLAINED = list(study.explained_experiments(config).values())


rule finetune:
    input:
        views=result("views/labelled.npy"),
        index=result("views/labelled.csv"),
        labels=experiment_labels,
        folds=experiment_folds,
        weights=experiment_weights,
    output:
        predictions=result("finetuning/{experiment}/seed{seed}.csv"),
        weights=[result(f"finetuning/{{experiment}}/seed{{seed}}_fold{fold}.safetensors") for fold in FOLDS],
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


if EXPLAINED:

    rule explain:
        input:
            views=result("views/labelled.npy"),
            index=result("views/labelled.csv"),
            folds=result(f"folds/seed{SEEDS[0]}.csv"),
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
