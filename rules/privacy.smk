# Does the generator copy? Its snapshots, the copy audit, membership, and the set to release (paper, Sec. 4.2).
if TRAINS_GENERATOR:

    if SELECTING:

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
                **stage(
                    "privacy.monitor_diffusion",
                    resume="{cohort}run",
                    settings=config["diffusion"]["monitor"],
                    network=EMBEDDING_KIND,
                    backbone=EMBEDDING_BACKBONE,
                    normalisation=EMBEDDING_NORMALISATION,
                    resize=config["embedding"]["inception"]["resize"],
                    metric_k=config["manifold"]["recipe"]["metric_k"],
                    shift=config["manifold"]["privacy"]["shift"],
                    false_alarms=config["manifold"]["privacy"]["false_alarms"],
                    exclude_fold=excluded_fold,
                ),
            shell:
                "{params.command} --log {log:q}"

        rule draw_selection:
            input:
                measures=result(f"diffusion/{COHORTS[0]}monitor.csv"),
            output:
                figure=report(
                    result("figures/selection.png"),
                    category="Training",
                    labels={"figure": "checkpoints of the generator"},
                    caption="../docs/captions/selection.rst",
                ),
            log:
                log_of("draw_selection"),
            localrule: True
            conda:
                "../envs/evaluation.yaml"
            params:
                **stage("privacy.draw_selection", select=config["diffusion"]["select"], origin=ORIGIN),
            shell:
                "{params.command} --log {log:q}"

    rule select_checkpoint:
        input:
            model=result("diffusion/{cohort}trained"),
            measures=result("diffusion/{cohort}monitor.csv") if SELECTING else [],
        output:
            model=directory(result("diffusion/{cohort}model")),
        log:
            log_of("select_checkpoint/{cohort}select"),
        localrule: True
        conda:
            "../envs/evaluation.yaml"
        params:
            **stage("privacy.select_checkpoint", select=config["diffusion"]["select"]),
        shell:
            "{params.command} --log {log:q}"


if CANARIES:

    rule plant_canaries:
        input:
            views=result("views/labelled.npy"),
            index=result("views/labelled.csv"),
            holdout=result("diffusion/canaries/holdout.csv"),
        output:
            views=result("canaries/views.npy"),
            planted=result("canaries/planted.csv"),
        log:
            log_of("plant_canaries"),
        localrule: True
        conda:
            "../envs/evaluation.yaml"
        params:
            **stage("privacy.plant_canaries", canaries=CANARIES, seed=config["privacy"]["canary"]["seed"]),
        shell:
            "{params.command} --log {log:q}"

    rule audit_canaries:
        input:
            model=result("diffusion/canaries/trained"),
            planted=result("canaries/planted.csv"),
            views=result("canaries/views.npy"),
            index=result("views/labelled.csv"),
            holdout=result("diffusion/canaries/holdout.csv"),
            measures=result("diffusion/canaries/monitor.csv") if SELECTING else [],
        output:
            canaries=result("canaries/canaries.csv"),
            summary=result("canaries/canaries.json"),
            page=report(
                result("canaries/canaries.html"),
                category="Synthetic views",
                labels={"table": "canaries"},
                caption="../docs/captions/canaries.rst",
            ),
        log:
            log_of("audit_canaries"),
        conda:
            "../envs/diffusion.yaml"
        threads: 1
        resources:
            runtime=0,
            gpu=1,
        params:
            **stage(
                "privacy.audit_canaries",
                resume="run",
                settings=config["privacy"]["canary"],
                select=config["diffusion"]["select"],
                origin=ORIGIN,
            ),
        shell:
            "{params.command} --log {log:q}"


if HELD_OUT:

    rule measure_denoising:
        input:
            model=generator,
            views=result("views/labelled.npy"),
            index=result("views/labelled.csv"),
            holdout=result("diffusion/{cohort}holdout.csv"),
            folds=left_out_folds,
        output:
            denoising=result("synthesis/{cohort}denoising.csv"),
        log:
            log_of("measure_denoising/{cohort}denoising"),
        conda:
            "../envs/diffusion.yaml"
        threads: 1
        resources:
            runtime=0,
            gpu=1,
        params:
            **stage(
                "privacy.measure_denoising",
                resume="{cohort}run",
                settings={key: config["manifold"]["privacy"][key] for key in ("noises", "seed")},
                batch_size=config["synthesis"]["recipe"]["batch_size"],
                exclude_fold=excluded_fold,
            ),
        shell:
            "{params.command} --log {log:q}"


rule embed_copies:
    input:
        views=result("views/labelled.npy"),
        index=result("views/labelled.csv"),
        synthetic_views=result("views/{cohort}synthetic.npy"),
        holdout=result("diffusion/{cohort}holdout.csv"),
        folds=left_out_folds,
    output:
        copy_real=result("embedding/{cohort}copy_labelled.npy"),
        copy_synthetic=result("embedding/{cohort}copy_synthetic.npy"),
        copy_planted=result("embedding/{cohort}copy_planted.npy"),
    log:
        log_of("embed_copies/{cohort}embed"),
    conda:
        "../envs/diffusion.yaml"
    threads: 1
    resources:
        runtime=0,
        gpu=1,
    params:
        **stage(
            "privacy.embed_copies",
            resume="{cohort}run",
            settings={key: config["manifold"]["privacy"][key] for key in ("encoder_steps", "shift", "seed")},
            exclude_fold=excluded_fold,
        ),
    shell:
        "{params.command} --log {log:q}"


rule audit_privacy:
    input:
        real=result("embedding/{cohort}labelled.npy"),
        real_views=result("views/labelled.npy"),
        real_index=result("views/labelled.csv"),
        synthetic=result("embedding/{cohort}synthetic.npy"),
        synthetic_views=result("views/{cohort}synthetic.npy"),
        copy_real=result("embedding/{cohort}copy_labelled.npy"),
        copy_synthetic=result("embedding/{cohort}copy_synthetic.npy"),
        copy_planted=result("embedding/{cohort}copy_planted.npy"),
        denoising=result("synthesis/{cohort}denoising.csv") if HELD_OUT else [],
        filter=result("synthesis/{cohort}filter.csv"),
        holdout=result("diffusion/{cohort}holdout.csv"),
        folds=left_out_folds,
    output:
        privacy=result("synthesis/{cohort}privacy.csv"),
        summary=result("synthesis/{cohort}privacy.json"),
        page=report(
            result("synthesis/{cohort}privacy.html"),
            category="Synthetic views",
            labels={"table": "copy audit"},
            caption="../docs/captions/closest_pairs.rst",
        ),
    log:
        log_of("audit_privacy/{cohort}privacy"),
    conda:
        "../envs/evaluation.yaml"
    threads: 1
    params:
        **stage(
            "privacy.audit_privacy",
            settings=config["manifold"]["privacy"],
            exclude_fold=excluded_fold,
            origin=ORIGIN,
        ),
    shell:
        "{params.command} --log {log:q}"


rule draw_closest_pairs:
    input:
        real_views=result("views/labelled.npy"),
        real_index=result("views/labelled.csv"),
        synthetic_views=result("views/{cohort}synthetic.npy"),
        privacy=result("synthesis/{cohort}privacy.csv"),
    output:
        figure=report(
            result("figures/{cohort}closest_pairs.png"),
            category="Synthetic views",
            labels={"figure": "closest pairs"},
            caption="../docs/captions/closest_pairs.rst",
        ),
    log:
        log_of("draw_closest_pairs/{cohort}pairs"),
    localrule: True
    conda:
        "../envs/evaluation.yaml"
    params:
        **stage("privacy.draw_closest_pairs", origin=ORIGIN),
    shell:
        "{params.command} --log {log:q}"


rule find_text:
    input:
        views=result("views/{cohort}synthetic.npy"),
        filter=result("synthesis/{cohort}filter.csv"),
        privacy=result("synthesis/{cohort}privacy.csv"),
    output:
        text=result("checks/{cohort}text_synthetic.csv"),
        figure=report(
            result("figures/{cohort}text_synthetic.png"),
            category="Synthetic views",
            labels={"figure": "text in views that were to be released"},
            caption="../docs/captions/text_synthetic.rst",
        ),
    log:
        log_of("find_text/{cohort}text"),
    conda:
        "../envs/evaluation.yaml"
    threads: 2
    params:
        **stage("privacy.find_text", origin=ORIGIN, on_text=DATA["on_text"]),
    shell:
        "{params.command} --log {log:q}"


rule make_reading_page:
    input:
        sorted(map(str, Path(REPOSITORY, "workflow_scripts/audit/review_page").iterdir())),
        synthetic_views=result("views/synthetic.npy"),
        filter=result("synthesis/filter.csv"),
        privacy=result("synthesis/privacy.csv"),
        text=result("checks/text_synthetic.csv"),
        real_views=result("views/labelled.npy"),
        real_index=result("views/labelled.csv"),
        real_text=result("checks/text_labelled.csv"),
    output:
        page=result("reading.html"),
        key=result("synthesis/reading_key.csv"),
    log:
        log_of("make_reading_page"),
    localrule: True
    conda:
        "../envs/evaluation.yaml"
    params:
        **stage("privacy.make_reading_page", reading_views=config["release"]["reading_views"], origin=ORIGIN),
    shell:
        "{params.command} --log {log:q}"


rule pack_release:
    input:
        views=result("views/{cohort}synthetic.npy"),
        filter=result("synthesis/{cohort}filter.csv"),
        privacy=result("synthesis/{cohort}privacy.csv"),
        text=result("checks/{cohort}text_synthetic.csv"),
        summary=result("synthesis/{cohort}privacy.json"),
        metrics=result("synthesis/{cohort}metrics.csv"),
        readings=config["release"]["readings"] or [],
        key=result("synthesis/reading_key.csv") if config["release"]["readings"] else [],
    output:
        archive=result("release/{cohort}synthetic.zip"),
    log:
        log_of("pack_release/{cohort}release"),
    conda:
        "../envs/evaluation.yaml"
    threads: 1
    params:
        **stage(
            "privacy.pack_release",
            settings={key: config["release"][key] for key in ("title", "licence", "contact", "without_audit")},
            organ=DATA["target_organ"],
            origin=ORIGIN,
        ),
    shell:
        "{params.command} --log {log:q}"
