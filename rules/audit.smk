# Noisy-label audit: training losses, votes, label sets (paper, Sec. 3).
AUDITS = [f"{init}_seed{seed}" for init in config["audit"]["initialisations"] for seed in SEEDS]
LOSSES = [result(f"audit/{audit}.csv") for audit in AUDITS]
OUT_OF_FOLD = [result(f"audit/{audit}_oof.csv") for audit in AUDITS]


localrules:
    count_votes,
    clean_labels,
    nest_labels,
    change_at_random,
    sweep_votes,
    make_review_page,
    measure_agreement,
    score_audit,


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
        gpu=1,
    params:
        settings=flags(config["audit"]["recipe"]),
        record=config["audit"]["record"],
        classes=CLASSES,
        backbone=config["model"]["backbone"],
        layout=lambda wildcards: start_layout(wildcards.init),
        work=result("work/audit/{init}_seed{seed}"),
        code=code_version("audit"),
    shell:
        "exec python -m workflow_scripts.audit --views {input.views:q} --index {input.index:q}"
        " --folds {input.folds:q} --seed {wildcards.seed} --classes {params.classes}"
        " --backbone {params.backbone} --layout {params.layout} --weights {input.weights:q}"
        " --output {output.losses:q} --output-oof {output.oof:q} --record {params.record} {params.settings}"
        " --work-dir {params.work:q} --code-version {params.code} --time-limit {resources.runtime}"
        " --threads {threads} --log {log:q}"


# `votes.csv` counts by the config's rule, `votes_x4.csv` asks for four exceedances.
rule count_votes:
    input:
        losses=LOSSES,
        oof=OUT_OF_FOLD,
        index=result("views/labelled.csv"),
    output:
        votes=result("audit/votes{variant}.csv"),
        bias=result("audit/bias{variant}.csv"),
    log:
        log_of("count_votes{variant}"),
    wildcard_constraints:
        variant=r"(_x\d+)?",
    conda:
        "../envs/data.yaml"
    params:
        settings=lambda wildcards: flags(vote_settings(wildcards.variant)),
        positive=quote(DATA["classes"][1]),
        code=code_version("vote"),
    shell:
        "exec python -m workflow_scripts.vote --losses {input.losses:q} --oof {input.oof:q} --index {input.index:q}"
        " --positive {params.positive} {params.settings} --output {output.votes:q} --output-bias {output.bias:q}"
        " --log {log:q}"


rule clean_labels:
    input:
        votes=votes_of_labels,
        complete=result("labels/complete.csv"),
        decisions=[config["audit"]["decisions"]] if config["audit"]["decisions"] else [],
    output:
        labels=result("labels/{labels}.csv"),
    log:
        log_of("clean_labels/{labels}"),
    wildcard_constraints:
        labels=label_sets_of("paper"),
    conda:
        "../envs/data.yaml"
    params:
        policy=lambda wildcards: label_set(wildcards.labels).policy,
        classes=CLASSES,
        decisions=f"--decisions {quote(config['audit']['decisions'])}" if config["audit"]["decisions"] else "",
        code=code_version("clean_labels"),
    shell:
        "exec python -m workflow_scripts.clean_labels --policy {params.policy} --votes {input.votes:q}"
        " --complete {input.complete:q} --classes {params.classes} {params.decisions}"
        " --output {output.labels:q} --log {log:q}"


# Only the audit's runs that never saw a fold judge what its model learns; the fold keeps its original labels.
rule nest_labels:
    input:
        losses=[result(f"audit/{init}_seed{{seed}}.csv") for init in config["audit"]["initialisations"]],
        index=result("views/labelled.csv"),
        complete=result("labels/complete.csv"),
    output:
        labels=result("labels/{labels}/seed{seed}.csv"),
    log:
        log_of("nest_labels/{labels}_seed{seed}"),
    wildcard_constraints:
        labels=label_sets_of("nested"),
    conda:
        "../envs/data.yaml"
    params:
        policy=lambda wildcards: label_set(wildcards.labels).policy,
        settings=lambda wildcards: flags(vote_settings(label_set(wildcards.labels).votes)),
        classes=CLASSES,
        code=code_version("nest_labels"),
    shell:
        "exec python -m workflow_scripts.nest_labels --policy {params.policy} --losses {input.losses:q}"
        " --index {input.index:q} --complete {input.complete:q} --classes {params.classes} {params.settings}"
        " --output {output.labels:q} --log {log:q}"


rule change_at_random:
    input:
        votes=votes_of_labels,
        complete=result("labels/complete.csv"),
    output:
        labels=result("labels/{labels}/seed{seed}.csv"),
    log:
        log_of("change_at_random/{labels}_seed{seed}"),
    wildcard_constraints:
        labels=label_sets_of("random"),
    conda:
        "../envs/data.yaml"
    params:
        policy=lambda wildcards: label_set(wildcards.labels).policy,
        classes=CLASSES,
        code=code_version("clean_labels"),
    shell:
        "exec python -m workflow_scripts.clean_labels --policy {params.policy} --votes {input.votes:q}"
        " --complete {input.complete:q} --classes {params.classes} --at-random {wildcards.seed}"
        " --output {output.labels:q} --log {log:q}"


rule sweep_votes:
    input:
        losses=LOSSES,
        index=result("views/labelled.csv"),
    output:
        sweep=result("audit/sweep.csv"),
        figure=report(
            result("figures/audit_sweep.png"),
            category="Label audit",
            labels={"figure": "other thresholds"},
            caption="../docs/captions/audit_sweep.rst",
        ),
    log:
        log_of("sweep_votes"),
    conda:
        "../envs/evaluation.yaml"
    params:
        # The paper's counts belong beside real views only.
        reference="" if ORIGIN else "--reference",
        threshold=config["audit"]["vote"]["threshold"],
        origin=ORIGIN_FLAG,
        code=code_version("sweep_votes"),
    shell:
        "exec python -m workflow_scripts.sweep_votes --losses {input.losses:q} --index {input.index:q}"
        " --threshold {params.threshold} {params.reference} {params.origin} --output {output.sweep:q}"
        " --output-figure {output.figure:q} --log {log:q}"


rule make_review_page:
    input:
        votes=result("audit/votes.csv"),
        losses=LOSSES,
        views=result("views/labelled.npy"),
        index=result("views/labelled.csv"),
        template=sorted(map(str, Path(workflow.basedir, "workflow_scripts/evaluation/review_page").iterdir())),
    output:
        page=result("review.html"),
    log:
        log_of("make_review_page"),
    conda:
        "../envs/evaluation.yaml"
    params:
        classes=CLASSES,
        threshold=config["audit"]["vote"]["threshold"],
        mode=config["audit"]["review"]["mode"],
        controls=config["audit"]["review"]["controls"],
        origin=ORIGIN_FLAG,
        code=code_version("review_page"),
    shell:
        "exec python -m workflow_scripts.review_page --votes {input.votes:q} --losses {input.losses:q}"
        " --views {input.views:q} --index {input.index:q} --classes {params.classes} --threshold {params.threshold}"
        " --mode {params.mode} --controls {params.controls} {params.origin} --output {output.page:q} --log {log:q}"


# How far the clinician agrees with the original labels, and with the audit's.
rule measure_agreement:
    input:
        decisions=config["audit"]["decisions"] or [],
        complete=result("labels/complete.csv"),
        flipped=result("labels/flipped.csv"),
        votes=result("audit/votes.csv"),
        index=result("views/labelled.csv"),
    output:
        agreement=result("audit/agreement.csv"),
    log:
        log_of("measure_agreement"),
    conda:
        "../envs/evaluation.yaml"
    params:
        classes=CLASSES,
        code=code_version("agreement"),
    shell:
        "exec python -m workflow_scripts.agreement --decisions {input.decisions:q} --complete {input.complete:q}"
        " --flipped {input.flipped:q} --votes {input.votes:q} --index {input.index:q} --classes {params.classes}"
        " --output {output.agreement:q} --log {log:q}"


# Phantoms know which labels are wrong, so there the audit itself can be judged.
rule score_audit:
    input:
        losses=LOSSES,
        oof=OUT_OF_FOLD,
        index=result("views/labelled.csv"),
        manifest=DATA["manifest"],
        key=KEY,
    output:
        scores=result("audit/scores.csv"),
        figure=report(
            result("figures/audit_scores.png"),
            category="Label audit",
            labels={"figure": "planted errors"},
            caption="../docs/captions/audit_scores.rst",
        ),
    log:
        log_of("score_audit"),
    conda:
        "../envs/evaluation.yaml"
    params:
        settings=flags(config["audit"]["vote"]),
        positive=quote(DATA["classes"][1]),
        key=KEY_FLAG,
        origin=ORIGIN_FLAG,
        code=code_version("score_audit"),
    shell:
        "exec python -m workflow_scripts.score_audit --losses {input.losses:q} --oof {input.oof:q}"
        " --index {input.index:q} --manifest {input.manifest:q} --positive {params.positive} {params.settings}"
        " {params.key} {params.origin} --output {output.scores:q} --output-figure {output.figure:q} --log {log:q}"
