# The generator: held-out patients, training, sampling in shards (paper, Sec. 4.2).
SHARDS = range(config["synthesis"]["shards"])


localrules:
    hold_out_patients,
    join_shards,


rule hold_out_patients:
    input:
        index=result("views/labelled.csv"),
        folds=left_out_folds,
    output:
        holdout=result("diffusion/{cohort}holdout.csv"),
    log:
        log_of("hold_out_patients/{cohort}holdout"),
    conda:
        "../envs/data.yaml"
    params:
        share=config["diffusion"]["holdout_patients"],
        seed=config["diffusion"]["recipe"]["seed"],
        left_out=left_out_flags,
        code=code_version("holdout"),
    shell:
        "exec python -m workflow_scripts.holdout --index {input.index:q} --share {params.share}"
        " --seed {params.seed} {params.left_out} --output {output.holdout:q} --log {log:q}"


rule train_diffusion:
    input:
        views=result("views/labelled.npy"),
        index=result("views/labelled.csv"),
        holdout=result("diffusion/{cohort}holdout.csv"),
        folds=left_out_folds,
    output:
        model=directory(result("diffusion/{cohort}model")),
        metrics=result("diffusion/{cohort}metrics.jsonl"),
    log:
        log_of("train_diffusion/{cohort}train"),
    conda:
        "../envs/diffusion.yaml"
    threads: 1
    resources:
        runtime=0,
        gpu=0,
    params:
        settings=flags(config["diffusion"]["recipe"]),
        left_out=left_out_flags,
        origin=ORIGIN_FLAG,
        work=result("work/diffusion/{cohort}run"),
        board=result("tensorboard/diffusion/{cohort}run"),
        code=code_version("train_diffusion"),
    shell:
        "exec python -m workflow_scripts.train_diffusion --views {input.views:q} --index {input.index:q}"
        " --holdout {input.holdout:q} {params.left_out} {params.origin} {params.settings}"
        " --output {output.model:q} --output-metrics {output.metrics:q}"
        " --work-dir {params.work:q} --tensorboard {params.board:q} --processes {resources.gpu}"
        " --code-version {params.code} --time-limit {resources.runtime} --threads {threads} --log {log:q}"


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
    params:
        settings=flags(config["synthesis"]["recipe"]),
        shards=len(SHARDS),
        images=config["synthesis"]["images"],
        size=DATA["size"],
        work=result("work/synthesis/{cohort}{shard}"),
        code=code_version("sample"),
    shell:
        "exec python -m workflow_scripts.sample --model {input.model:q} --shard {wildcards.shard}"
        " --shards {params.shards} --images {params.images} --size {params.size} --output {output.shard:q} {params.settings}"
        " --work-dir {params.work:q} --code-version {params.code} --time-limit {resources.runtime}"
        " --threads {threads} --log {log:q}"


rule join_shards:
    input:
        shards=[result(f"synthesis/{{cohort}}shards/{shard}.npy") for shard in SHARDS],
    output:
        views=result("views/{cohort}synthetic.npy"),
        index=result("views/{cohort}synthetic.csv"),
    log:
        log_of("join_shards/{cohort}join"),
    conda:
        "../envs/data.yaml"
    params:
        organ=DATA["target_organ"],
        code=code_version("join_shards"),
    shell:
        "exec python -m workflow_scripts.join_shards --shards {input.shards:q} --organ {params.organ}"
        " --output-views {output.views:q} --output-index {output.index:q} --log {log:q}"
