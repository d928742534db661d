# Contrastive pretraining per data mix (paper, Sec. 4.1).
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
        settings=lambda wildcards: flags(study.repeated_recipe(wildcards.run, wildcards.repeat, config)),
        organs=" ".join(DATA["organs"]),
        shares=lambda wildcards: " ".join(
            str(RUNS[wildcards.run]["weights"].get(name, 1)) for name in RUNS[wildcards.run]["sets"]
        ),
        left_out=left_out_flags,
        backbone=config["model"]["backbone"],
        layout=lambda wildcards: start_layout(RUNS[wildcards.run]["init"]),
        work=result("work/pretrain/{run}/{repeat}{cohort}run"),
        board=result("tensorboard/pretraining/{run}/{repeat}{cohort}run"),
        code=code_version("pretrain"),
    shell:
        "exec python -m workflow_scripts.pretrain --views {input.views:q} --index {input.index:q}"
        " --shares {params.shares} --organs {params.organs} {params.left_out} --backbone {params.backbone}"
        " --layout {params.layout} --weights {input.weights:q} {params.settings}"
        " --output {output.backbone:q} --output-heads {output.heads:q}"
        " --output-metrics {output.metrics:q} --output-sheet {output.sheet:q}"
        " --output-parameters {output.parameters:q}"
        " --work-dir {params.work:q} --tensorboard {params.board:q} --processes {resources.gpu}"
        " --code-version {params.code} --time-limit {resources.runtime} --threads {threads} --log {log:q}"
