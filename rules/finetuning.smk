# Fine-tuning over folds and seeds, and the baselines beside it (paper, Sec. 4.3).
NETWORKS = [name for name, experiment in EXPERIMENTS.items() if not experiment.is_baseline]
BASELINE_EXPERIMENTS = [name for name in EXPERIMENTS if name not in NETWORKS]


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
        settings=lambda wildcards: flags(study.finetuning_recipe(EXPERIMENTS[wildcards.experiment], config)),
        classes=CLASSES,
        backbone=config["model"]["backbone"],
        layout=lambda wildcards: start_layout(EXPERIMENTS[wildcards.experiment].init),
        work=result("work/finetune/{experiment}/seed{seed}"),
        code=code_version("finetune"),
    shell:
        "exec python -m workflow_scripts.finetune --views {input.views:q} --index {input.index:q}"
        " --labels {input.labels:q} --folds {input.folds:q} --seed {wildcards.seed}"
        " --classes {params.classes} --backbone {params.backbone} --layout {params.layout}"
        " --weights {input.weights:q} {params.settings}"
        " --output {output.predictions:q} --output-weights {output.weights:q}"
        " --work-dir {params.work:q} --code-version {params.code} --time-limit {resources.runtime}"
        " --threads {threads} --log {log:q}"


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
        kind=lambda wildcards: EXPERIMENTS[wildcards.experiment].init,
        classes=CLASSES,
        code=code_version("baseline"),
    shell:
        "exec python -m workflow_scripts.baseline --kind {params.kind} --views {input.views:q}"
        " --index {input.index:q} --labels {input.labels:q} --folds {input.folds:q}"
        " --seed {wildcards.seed} --classes {params.classes} --output {output.predictions:q} --log {log:q}"


# The fold x seed ensemble of one experiment, calibrated, as one folder to use on new frames.
rule classifier:
    input:
        predictions=predictions_of(CLASSIFIER),
        weights=[
            result(f"finetuning/{name}/seed{seed}_fold{fold}.safetensors")
            for name in CLASSIFIER
            for seed in SEEDS
            for fold in FOLDS
        ],
        views=result("views/labelled.npy"),
        index=result("views/labelled.csv"),
    output:
        folder=directory(result("classifier")),
    log:
        log_of("classifier"),
    conda:
        "../envs/training.yaml"
    threads: 1
    params:
        experiment=" ".join(CLASSIFIER),
        profiles=quote(json.dumps(DATA["crop_profiles"])),
        size=DATA["size"],
        classes=CLASSES,
        truth=config["classifier"]["truth"],
        origin=ORIGIN_FLAG,
        code=code_version("classifier"),
    shell:
        "exec python -m workflow_scripts.classifier --experiment {params.experiment} --weights {input.weights:q}"
        " --predictions {input.predictions:q} --views {input.views:q} --index {input.index:q}"
        " --profiles {params.profiles} --size {params.size} --classes {params.classes} --truth {params.truth}"
        " {params.origin} --output {output.folder:q} --threads {threads} --log {log:q}"
