# The generator: held-out patients, training, sampling in shards (paper, Sec. 4.2).
SHARDS = range(config["synthesis"]["shards"])


localrules:
    hold_out_patients,
    select_checkpoint,
    join_shards,
    export_png,


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
        model=directory(result(f"diffusion/{{cohort}}{'trained' if SELECTING else 'model'}")),
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
        settings=flags(config["diffusion"]["recipe"]),
        snapshots=config["diffusion"]["snapshot_every"] if SELECTING else 0,
        left_out=left_out_flags,
        classes=ASKED_CLASSES,
        origin=ORIGIN_FLAG,
        work=result("work/diffusion/{cohort}run"),
        board=result("tensorboard/diffusion/{cohort}run"),
        code=code_version("train_diffusion"),
    shell:
        "exec python -m workflow_scripts.train_diffusion --views {input.views:q} --index {input.index:q}"
        " --holdout {input.holdout:q} {params.left_out} --classes {params.classes} {params.origin} {params.settings}"
        " --snapshot-every {params.snapshots} --output {output.model:q} --output-metrics {output.metrics:q}"
        " --work-dir {params.work:q} --tensorboard {params.board:q} --processes {resources.gpu}"
        " --code-version {params.code} --time-limit {resources.runtime} --threads {threads} --log {log:q}"


rule monitor_diffusion:
    input:
        model=result("diffusion/{cohort}trained"),
        views=result("views/labelled.npy"),
        index=result("views/labelled.csv"),
        holdout=result("diffusion/{cohort}holdout.csv"),
        folds=left_out_folds,
        weights=embedding_weights,
    output:
        measures=result("diffusion/{cohort}monitor.csv"),
    log:
        log_of("monitor_diffusion/{cohort}monitor"),
    conda:
        "../envs/diffusion.yaml"
    threads: 1
    resources:
        runtime=0,
        gpu=1,
    params:
        settings=flags(config["diffusion"]["monitor"]),
        network=EMBEDDING_KIND,
        backbone=EMBEDDING_BACKBONE,
        metric_k=config["manifold"]["recipe"]["metric_k"],
        shift=config["manifold"]["privacy"]["shift"],
        false_alarms=config["manifold"]["privacy"]["false_alarms"],
        left_out=left_out_flags,
        work=result("work/monitor/{cohort}run"),
        code=code_version("monitor_diffusion"),
    shell:
        "exec python -m workflow_scripts.monitor_diffusion --model {input.model:q} --views {input.views:q}"
        " --index {input.index:q} --holdout {input.holdout:q} {params.left_out} --network {params.network}"
        " --weights {input.weights:q} --backbone {params.backbone} --metric-k {params.metric_k} --shift {params.shift}"
        " --false-alarms {params.false_alarms} {params.settings} --output {output.measures:q}"
        " --work-dir {params.work:q} --code-version {params.code} --time-limit {resources.runtime}"
        " --threads {threads} --log {log:q}"


rule select_checkpoint:
    input:
        model=result("diffusion/{cohort}trained"),
        measures=result("diffusion/{cohort}monitor.csv"),
    output:
        model=directory(result(f"diffusion/{{cohort}}{'model' if SELECTING else 'selected'}")),
    log:
        log_of("select_checkpoint/{cohort}select"),
    conda:
        "../envs/evaluation.yaml"
    params:
        select=config["diffusion"]["select"],
        code=code_version("select_checkpoint"),
    shell:
        "exec python -m workflow_scripts.select_checkpoint --model {input.model:q} --measures {input.measures:q}"
        " --select {params.select} --output {output.model:q} --log {log:q}"


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
        settings=flags(config["synthesis"]["recipe"]),
        shards=len(SHARDS),
        images=config["synthesis"]["images"],
        size=DATA["size"],
        classes=ASKED_CLASSES,
        work=result("work/synthesis/{cohort}{shard}"),
        code=code_version("sample"),
    shell:
        "exec python -m workflow_scripts.sample --model {input.model:q} --shard {wildcards.shard}"
        " --shards {params.shards} --images {params.images} --size {params.size} --classes {params.classes}"
        " --output {output.shard:q} {params.settings}"
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
        classes=ASKED_CLASSES,
        code=code_version("join_shards"),
    shell:
        "exec python -m workflow_scripts.join_shards --shards {input.shards:q} --organ {params.organ}"
        " --classes {params.classes} --output-views {output.views:q} --output-index {output.index:q} --log {log:q}"


rule export_png:
    input:
        views=result("views/{cohort}synthetic.npy"),
        index=result("views/{cohort}synthetic.csv"),
    output:
        folder=directory(result("synthesis/{cohort}png")),
    log:
        log_of("export_png/{cohort}png"),
    conda:
        "../envs/data.yaml"
    params:
        origin=ORIGIN_FLAG,
        code=code_version("export_png"),
    shell:
        "exec python -m workflow_scripts.export_png --views {input.views:q} --index {input.index:q} {params.origin}"
        " --output {output.folder:q} --log {log:q}"
