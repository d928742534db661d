# Noisy-label audit: training losses, votes, label sets (paper, Sec. 3).
AUDITS = [f"{init}_seed{seed}" for init in config["audit"]["initialisations"] for seed in SEEDS]


localrules:
    count_votes,
    clean_labels,


rule audit_train:
    input:
        views=result("views/labelled.npy"),
        index=result("views/labelled.csv"),
        folds=result("folds/seed{seed}.csv"),
        weights=lambda wildcards: start_weights(wildcards.init, wildcards.seed),
    output:
        losses=result("audit/{init}_seed{seed}.csv"),
        oof=result("audit/{init}_seed{seed}_oof.csv"),
    log:
        log_of("audit_train/{init}_seed{seed}"),
    conda:
        "../envs/training.yaml"
    threads: 1
    resources:
        runtime=0,
    params:
        settings=flags(config["audit"]["recipe"]),
        classes=CLASSES,
        backbone=config["model"]["backbone"],
        layout=lambda wildcards: start_layout(wildcards.init),
        work=result("work/audit/{init}_seed{seed}"),
        code=code_version("audit"),
    shell:
        "exec python -m workflow_scripts.audit --views {input.views:q} --index {input.index:q}"
        " --folds {input.folds:q} --seed {wildcards.seed} --classes {params.classes}"
        " --backbone {params.backbone} --layout {params.layout} --weights {input.weights:q}"
        " --output {output.losses:q} --output-oof {output.oof:q} {params.settings}"
        " --work-dir {params.work:q} --code-version {params.code} --time-limit {resources.runtime}"
        " --threads {threads} --log {log:q}"


rule count_votes:
    input:
        losses=[result(f"audit/{audit}.csv") for audit in AUDITS],
        labels=result("labels/complete.csv"),
    output:
        votes=result("audit/votes.csv"),
    log:
        log_of("count_votes"),
    conda:
        "../envs/data.yaml"
    params:
        settings=flags(config["audit"]["vote"]),
        code=code_version("vote"),
    shell:
        "exec python -m workflow_scripts.vote --losses {input.losses:q} --labels {input.labels:q}"
        " {params.settings} --output {output.votes:q} --log {log:q}"


rule clean_labels:
    input:
        votes=result("audit/votes.csv"),
        complete=result("labels/complete.csv"),
        decisions=[config["audit"]["decisions"]] if config["audit"]["decisions"] else [],
    output:
        labels=result("labels/{policy}.csv"),
    log:
        log_of("clean_labels/{policy}"),
    wildcard_constraints:
        policy="filtered|flipped|reviewed",
    conda:
        "../envs/data.yaml"
    params:
        classes=CLASSES,
        decisions=f"--decisions {quote(config['audit']['decisions'])}" if config["audit"]["decisions"] else "",
        code=code_version("clean_labels"),
    shell:
        "exec python -m workflow_scripts.clean_labels --policy {wildcards.policy} --votes {input.votes:q}"
        " --complete {input.complete:q} --classes {params.classes} {params.decisions}"
        " --output {output.labels:q} --log {log:q}"
