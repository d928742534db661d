# Judging the synthetic set: embedding, manifold filter, metrics, privacy audit, release (paper, Sec. 4.2).
localrules:
    pack_release,


rule embed:
    input:
        real=result("views/labelled.npy"),
        synthetic=result("views/{cohort}synthetic.npy"),
        weights=embedding_weights,
        real_index=result("views/labelled.csv"),
        holdout=result("diffusion/{cohort}holdout.csv"),
        folds=left_out_folds,
    output:
        real=result("embedding/{cohort}labelled.npy"),
        synthetic=result("embedding/{cohort}synthetic.npy"),
        copy_real=result("embedding/{cohort}copy_labelled.npy"),
        copy_synthetic=result("embedding/{cohort}copy_synthetic.npy"),
        copy_planted=result("embedding/{cohort}copy_planted.npy"),
    log:
        log_of("embed/{cohort}embed"),
    conda:
        "../envs/diffusion.yaml"
    threads: 1
    resources:
        runtime=0,
        gpu=1,
    params:
        network=EMBEDDING_KIND,
        backbone=EMBEDDING_BACKBONE,
        batch_size=config["embedding"]["batch_size"],
        copies=flags({key: config["manifold"]["privacy"][key] for key in ("encoder_steps", "shift", "seed")}),
        left_out=left_out_flags,
        work=result("work/embedding/{cohort}run"),
        code=code_version("embed"),
    shell:
        "exec python -m workflow_scripts.embed --network {params.network} --weights {input.weights:q}"
        " --backbone {params.backbone} --views {input.real:q} {input.synthetic:q}"
        " --output {output.real:q} {output.synthetic:q} --batch-size {params.batch_size}"
        " --real-index {input.real_index:q} --holdout {input.holdout:q} {params.left_out} {params.copies}"
        " --output-copies {output.copy_real:q} {output.copy_synthetic:q} {output.copy_planted:q}"
        " --work-dir {params.work:q} --code-version {params.code} --time-limit {resources.runtime}"
        " --threads {threads} --log {log:q}"


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
        settings=flags(config["manifold"]["recipe"]),
        left_out=left_out_flags,
        code=code_version("filter_manifold"),
    shell:
        "exec python -m workflow_scripts.filter_manifold --real {input.real:q}"
        " --real-index {input.real_index:q} --synthetic {input.synthetic:q} --views {input.views:q}"
        " --index {input.index:q} --holdout {input.holdout:q} {params.left_out} {params.settings}"
        " --output {output.filter:q} --output-curve {output.curve:q}"
        " --output-views {output.views:q} --output-index {output.index:q}"
        " --threads {threads} --log {log:q}"


rule generation_metrics:
    input:
        real=result("embedding/{cohort}labelled.npy"),
        real_index=result("views/labelled.csv"),
        synthetic=result("embedding/{cohort}synthetic.npy"),
        filter=result("synthesis/{cohort}filter.csv"),
        holdout=result("diffusion/{cohort}holdout.csv"),
        folds=left_out_folds,
    output:
        metrics=result("synthesis/{cohort}metrics.csv"),
    log:
        log_of("generation_metrics/{cohort}metrics"),
    conda:
        "../envs/evaluation.yaml"
    threads: 1
    params:
        settings=flags(config["manifold"]["recipe"]),
        left_out=left_out_flags,
        code=code_version("generation_metrics"),
    shell:
        "exec python -m workflow_scripts.generation_metrics --real {input.real:q}"
        " --real-index {input.real_index:q} --synthetic {input.synthetic:q} --filter {input.filter:q}"
        " --holdout {input.holdout:q} {params.left_out} {params.settings}"
        " --output {output.metrics:q} --threads {threads} --log {log:q}"


rule denoising_errors:
    input:
        model=generator,
        views=result("views/labelled.npy"),
        index=result("views/labelled.csv"),
        holdout=result("diffusion/{cohort}holdout.csv"),
        folds=left_out_folds,
    output:
        errors=result("synthesis/{cohort}denoising.csv"),
    log:
        log_of("denoising_errors/{cohort}denoising"),
    conda:
        "../envs/diffusion.yaml"
    threads: 1
    resources:
        runtime=0,
        gpu=1,
    params:
        settings=flags({key: config["manifold"]["privacy"][key] for key in ("noises", "seed")}),
        batch_size=config["synthesis"]["recipe"]["batch_size"],
        left_out=left_out_flags,
        work=result("work/denoising/{cohort}run"),
        code=code_version("denoising_errors"),
    shell:
        "exec python -m workflow_scripts.denoising_errors --model {input.model:q} --views {input.views:q}"
        " --index {input.index:q} --holdout {input.holdout:q} {params.left_out} {params.settings}"
        " --batch-size {params.batch_size} --output {output.errors:q} --work-dir {params.work:q}"
        " --code-version {params.code} --time-limit {resources.runtime} --threads {threads} --log {log:q}"


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
        denoising=result("synthesis/{cohort}denoising.csv"),
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
        settings=flags(config["manifold"]["privacy"]),
        left_out=left_out_flags,
        origin=ORIGIN_FLAG,
        code=code_version("privacy"),
    shell:
        "exec python -m workflow_scripts.privacy --real {input.real:q} --real-views {input.real_views:q}"
        " --real-index {input.real_index:q} --synthetic {input.synthetic:q}"
        " --synthetic-views {input.synthetic_views:q} --copy-real {input.copy_real:q}"
        " --copy-synthetic {input.copy_synthetic:q} --copy-planted {input.copy_planted:q}"
        " --denoising {input.denoising:q} --filter {input.filter:q}"
        " --holdout {input.holdout:q} {params.left_out} {params.origin} {params.settings}"
        " --output {output.privacy:q} --output-summary {output.summary:q}"
        " --output-html {output.page:q}"
        " --threads {threads} --log {log:q}"


rule pack_release:
    input:
        views=result("views/{cohort}synthetic.npy"),
        filter=result("synthesis/{cohort}filter.csv"),
        privacy=result("synthesis/{cohort}privacy.csv"),
        summary=result("synthesis/{cohort}privacy.json"),
        metrics=result("synthesis/{cohort}metrics.csv"),
    output:
        archive=result("release/{cohort}synthetic.zip"),
    log:
        log_of("pack_release/{cohort}release"),
    conda:
        "../envs/evaluation.yaml"
    params:
        settings=flags(config["release"]),
        organ=DATA["target_organ"],
        origin=ORIGIN_FLAG,
        code=code_version("release"),
    shell:
        "exec python -m workflow_scripts.release --views {input.views:q} --filter {input.filter:q}"
        " --privacy {input.privacy:q} --privacy-summary {input.summary:q} --metrics {input.metrics:q}"
        " --organ {params.organ} {params.settings} {params.origin} --output {output.archive:q}"
        " --log {log:q}"
