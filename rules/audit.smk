# Noisy-label audit: training losses, votes, label sets, review (paper, Sec. 3).
AUDITS = [f"{init}_seed{seed}" for init in config["audit"]["initialisations"] for seed in SEEDS]
LOSSES = [result(f"audit/{audit}.csv") for audit in AUDITS]
OUT_OF_FOLD = [result(f"audit/{audit}_oof.csv") for audit in AUDITS]


rule complete_labels:
    input:
        index=result("views/labelled.csv"),
    output:
        labels=result("labels/complete.csv"),
    log:
        log_of("complete_labels"),
    localrule: True
    conda:
        "../envs/data.yaml"
    params:
        **stage("audit.complete_labels"),
    shell:
        "{params.command} --log {log:q}"


# Before what is trained: a network that a calliper tells the label needs no anatomy.
rule find_shortcuts:
    input:
        views=result("views/labelled.npy"),
        index=result("views/labelled.csv"),
    output:
        csv=result("tables/shortcuts.csv"),
        md=result("tables/shortcuts.md"),
        tex=result("tables/shortcuts.tex"),
        html=report(
            result("tables/shortcuts.html"),
            category="Data",
            labels={"figure": "shortcuts"},
            caption="../docs/captions/shortcuts.rst",
        ),
    log:
        log_of("find_shortcuts"),
    priority: 1
    localrule: True
    conda:
        "../envs/training.yaml"
    params:
        **stage("audit.find_shortcuts", classes=CLASSES, origin=ORIGIN),
    shell:
        "{params.command} --log {log:q}"


rule train_audit:
    input:
        views=result("views/labelled.npy"),
        index=result("views/labelled.csv"),
        folds=result("folds/seed{seed}.csv"),
        weights=lambda wildcards: start_weights(wildcards.init, wildcards.seed),
    output:
        losses=result("audit/{init}_seed{seed}.csv"),
        oof=result("audit/{init}_seed{seed}_oof.csv"),
    log:
        log_of("train_audit/{init}_seed{seed}"),
    conda:
        "../envs/training.yaml"
    threads: 1
    resources:
        runtime=0,
        gpu=1,
    params:
        **stage(
            "audit.train_audit",
            resume="{init}_seed{seed}",
            settings=config["audit"]["recipe"],
            record=config["audit"]["record"],
            seed=wildcard("seed"),
            classes=CLASSES,
            backbone=lambda wildcards: study.backbone_of(wildcards.init, config),
            normalisation=lambda wildcards: study.normalisation_of(wildcards.init, config),
            layout=lambda wildcards: start_layout(wildcards.init),
        ),
    shell:
        "{params.command} --log {log:q}"


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
    localrule: True
    conda:
        "../envs/data.yaml"
    params:
        **stage(
            "audit.count_votes",
            settings=lambda wildcards: vote_settings(wildcards.variant),
            positive=POSITIVE,
        ),
    shell:
        "{params.command} --log {log:q}"


rule clean_labels:
    input:
        votes=votes_of_labels,
        complete=result("labels/complete.csv"),
        decisions=config["audit"]["decisions"] or [],
    output:
        labels=result("labels/{labels}.csv"),
    log:
        log_of("clean_labels/{labels}"),
    wildcard_constraints:
        labels=label_sets_of("paper"),
    localrule: True
    conda:
        "../envs/data.yaml"
    params:
        **stage("audit.clean_labels", policy=policy_of_labels, classes=CLASSES),
    shell:
        "{params.command} --log {log:q}"


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
    localrule: True
    conda:
        "../envs/data.yaml"
    params:
        **stage(
            "audit.nest_labels",
            settings=lambda wildcards: vote_settings(label_set(wildcards.labels).votes),
            policy=policy_of_labels,
            classes=CLASSES,
        ),
    shell:
        "{params.command} --log {log:q}"


# As many labels as the audit changes, of views drawn at random: the control of Table 1.
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
    localrule: True
    conda:
        "../envs/data.yaml"
    params:
        **stage("audit.change_at_random", policy=policy_of_labels, classes=CLASSES, seed=wildcard("seed")),
    shell:
        "{params.command} --log {log:q}"


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
    localrule: True
    conda:
        "../envs/evaluation.yaml"
    params:
        **stage(
            "audit.sweep_votes",
            threshold=config["audit"]["vote"]["threshold"],
            reference_numbers=not ORIGIN,
            origin=ORIGIN,
        ),
    shell:
        "{params.command} --log {log:q}"


rule draw_votes:
    input:
        votes=result("audit/votes.csv"),
        index=result("views/labelled.csv"),
        # Only phantoms know their true class.
        manifest=DATA["manifest"] if ORIGIN else [],
        patient_key=PATIENT_KEY if ORIGIN else [],
    output:
        figure=report(
            result("figures/audit_votes.png"),
            category="Label audit",
            labels={"figure": "votes"},
            caption="../docs/captions/audit_votes.rst",
        ),
    log:
        log_of("draw_votes"),
    localrule: True
    conda:
        "../envs/evaluation.yaml"
    params:
        **stage("audit.draw_votes", reference_numbers=not ORIGIN, origin=ORIGIN),
    shell:
        "{params.command} --log {log:q}"


rule make_review_page:
    input:
        sorted(map(str, Path(REPOSITORY, "workflow_scripts/audit/review_page").iterdir())),
        votes=result("audit/votes.csv"),
        losses=LOSSES,
        views=result("views/labelled.npy"),
        index=result("views/labelled.csv"),
    output:
        page=result("review.html"),
    log:
        log_of("make_review_page"),
    localrule: True
    conda:
        "../envs/evaluation.yaml"
    params:
        **stage(
            "audit.make_review_page",
            classes=CLASSES,
            threshold=config["audit"]["vote"]["threshold"],
            mode=config["audit"]["review"]["mode"],
            controls=config["audit"]["review"]["controls"],
            origin=ORIGIN,
        ),
    shell:
        "{params.command} --log {log:q}"


if config["audit"]["decisions"]:

    # How far the clinician agrees with the original labels, and with the audit's.
    rule measure_agreement:
        input:
            decisions=config["audit"]["decisions"],
            complete=result("labels/complete.csv"),
            flipped=result("labels/flipped.csv"),
            votes=result("audit/votes.csv"),
            index=result("views/labelled.csv"),
        output:
            agreement=result("audit/agreement.csv"),
        log:
            log_of("measure_agreement"),
        localrule: True
        conda:
            "../envs/evaluation.yaml"
        params:
            **stage("audit.measure_agreement", classes=CLASSES),
        shell:
            "{params.command} --log {log:q}"


if ORIGIN:

    # Phantoms know which labels are wrong, so there the audit itself can be judged.
    rule score_audit:
        input:
            losses=LOSSES,
            oof=OUT_OF_FOLD,
            index=result("views/labelled.csv"),
            manifest=DATA["manifest"],
            patient_key=PATIENT_KEY,
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
        localrule: True
        conda:
            "../envs/evaluation.yaml"
        params:
            **stage("audit.score_audit", settings=config["audit"]["vote"], positive=POSITIVE, origin=ORIGIN),
        shell:
            "{params.command} --log {log:q}"
