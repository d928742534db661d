# Judging the synthetic set: embedding, manifold filter, metrics (paper, Sec. 4.2).
rule embed:
    input:
        views=[result("views/labelled.npy"), result("views/{cohort}synthetic.npy")],
        weights=embedding_weights,
    output:
        features=[result("embedding/{cohort}labelled.npy"), result("embedding/{cohort}synthetic.npy")],
    log:
        log_of("embed/{cohort}embed"),
    conda:
        "../envs/diffusion.yaml"
    threads: 1
    resources:
        runtime=0,
        gpu=1,
    params:
        **stage(
            "synthesis.embed",
            resume="{cohort}run",
            network=EMBEDDING_KIND,
            backbone=EMBEDDING_BACKBONE,
            normalisation=EMBEDDING_NORMALISATION,
            resize=config["embedding"]["inception"]["resize"],
            batch_size=config["embedding"]["batch_size"],
        ),
    shell:
        "{params.command} --log {log:q}"


rule filter_manifold:
    input:
        real=result("embedding/{cohort}labelled.npy"),
        real_index=result("views/labelled.csv"),
        synthetic=result("embedding/{cohort}synthetic.npy"),
        views=result("views/{cohort}synthetic.npy"),
        index=result("views/{cohort}synthetic.csv"),
        holdout=result("diffusion/{cohort}holdout.csv"),
        folds=left_out_folds,
    output:
        filter=result("synthesis/{cohort}filter.csv"),
        curve=result("synthesis/{cohort}filter_curve.csv"),
        views=result("views/{cohort}filtered.npy"),
        index=result("views/{cohort}filtered.csv"),
    log:
        log_of("filter_manifold/{cohort}filter"),
    conda:
        "../envs/evaluation.yaml"
    threads: 1
    params:
        **stage("synthesis.filter_manifold", settings=config["manifold"]["recipe"], exclude_fold=excluded_fold),
    shell:
        "{params.command} --log {log:q}"


rule measure_generation:
    input:
        real=result("embedding/{cohort}labelled.npy"),
        real_index=result("views/labelled.csv"),
        synthetic=result("embedding/{cohort}synthetic.npy"),
        filter=result("synthesis/{cohort}filter.csv"),
        holdout=result("diffusion/{cohort}holdout.csv"),
        folds=left_out_folds,
        published=config["embedding"]["published_activations"] or [],
    output:
        metrics=result("synthesis/{cohort}metrics.csv"),
    log:
        log_of("measure_generation/{cohort}metrics"),
    conda:
        "../envs/evaluation.yaml"
    threads: 1
    params:
        **stage("synthesis.measure_generation", settings=config["manifold"]["recipe"], exclude_fold=excluded_fold),
    shell:
        "{params.command} --log {log:q}"


rule draw_filter:
    input:
        real=result("embedding/{cohort}labelled.npy"),
        synthetic=result("embedding/{cohort}synthetic.npy"),
        views=result("views/{cohort}synthetic.npy"),
        filter=result("synthesis/{cohort}filter.csv"),
        curve=result("synthesis/{cohort}filter_curve.csv"),
    output:
        figure=report(
            result("figures/{cohort}figure4.png"),
            category="Synthetic views",
            labels={"figure": "4: kept and discarded"},
            caption="../docs/captions/figure4.rst",
        ),
    log:
        log_of("draw_filter/{cohort}figure4"),
    localrule: True
    conda:
        "../envs/evaluation.yaml"
    params:
        **stage("synthesis.draw_filter", protocol=json.dumps(generation_facts(config)), origin=ORIGIN),
    shell:
        "{params.command} --log {log:q}"
