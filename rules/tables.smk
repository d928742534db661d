# Tables 1-4 and the generation table.
localrules:
    make_table,
    make_generation_table,
    make_leak_table,
    make_levels,
    check_claims,


rule make_table:
    input:
        predictions=lambda wildcards: predictions_of(table_experiments(wildcards.table)),
        parameters=lambda wildcards: table_parameters(wildcards.table),
    output:
        csv=result("tables/{table}.csv"),
        md=result("tables/{table}.md"),
        tex=result("tables/{table}.tex"),
        html=report(
            result("tables/{table}.html"),
            category="Tables",
            labels={"table": "{table}"},
            caption="../docs/captions/table.rst",
        ),
    log:
        log_of("make_table/{table}"),
    conda:
        "../envs/evaluation.yaml"
    params:
        rows=lambda wildcards: table_rows(wildcards.table),
        experiments=lambda wildcards: " ".join(table_experiments(wildcards.table)),
        classes=CLASSES,
        spread=config["tables"]["spread"],
        reference="--reference-numbers" if config["tables"]["reference"] and not ORIGIN else "",
        holdout=config["holdout"],
        pretraining_seeds=config["pretraining"]["seeds"],
        origin=ORIGIN_FLAG,
        code=code_version("table"),
    shell:
        "exec python -m workflow_scripts.table --table {wildcards.table} --rows {params.rows}"
        " --experiments {params.experiments} --predictions {input.predictions:q}"
        " --classes {params.classes} --spread {params.spread} --holdout {params.holdout}"
        " --pretraining-seeds {params.pretraining_seeds} {params.reference} {params.origin} --output-csv {output.csv:q} --output-md {output.md:q}"
        " --output-tex {output.tex:q} --output-html {output.html:q} --log {log:q}"


rule make_generation_table:
    input:
        metrics=[result(f"synthesis/{cohort}metrics.csv") for cohort in COHORTS],
        filter=[result(f"synthesis/{cohort}filter.csv") for cohort in COHORTS],
    output:
        csv=result("tables/generation.csv"),
        md=result("tables/generation.md"),
        tex=result("tables/generation.tex"),
        html=report(
            result("tables/generation.html"),
            category="Tables",
            labels={"table": "generation"},
            caption="../docs/captions/generation.rst",
        ),
    log:
        log_of("make_generation_table"),
    conda:
        "../envs/evaluation.yaml"
    params:
        reference="--reference-numbers" if config["tables"]["reference"] and not ORIGIN else "",
        holdout=config["holdout"],
        origin=ORIGIN_FLAG,
        code=code_version("generation_table"),
    shell:
        "exec python -m workflow_scripts.generation_table --metrics {input.metrics:q}"
        " --filter {input.filter:q} --holdout {params.holdout} {params.reference} {params.origin} --output-csv {output.csv:q}"
        " --output-md {output.md:q} --output-tex {output.tex:q} --output-html {output.html:q} --log {log:q}"


# The same fine-tuning with folds of patients and with folds of views, as the paper's released code draws them.
rule make_leak_table:
    input:
        by_patient=[
            result(f"finetuning/{e.name}/seed{s}.csv") for e in study.leak_experiments(config)[:1] for s in SEEDS
        ],
        by_view=[result(f"finetuning/{e.name}/seed{s}.csv") for e in study.leak_experiments(config)[1:] for s in SEEDS],
    output:
        csv=result("tables/leak.csv"),
        md=result("tables/leak.md"),
        tex=result("tables/leak.tex"),
        html=report(
            result("tables/leak.html"),
            category="Tables",
            labels={"table": "leak"},
            caption="../docs/captions/leak.rst",
        ),
    log:
        log_of("make_leak_table"),
    conda:
        "../envs/evaluation.yaml"
    params:
        name=quote(config["tables"]["leak"]),
        positive=quote(DATA["classes"][1]),
        spread=config["tables"]["spread"],
        origin=ORIGIN_FLAG,
        code=code_version("leak_table"),
    shell:
        "exec python -m workflow_scripts.leak_table --by-patient {input.by_patient:q} --by-view {input.by_view:q}"
        " --name {params.name} --positive {params.positive} --spread {params.spread} {params.origin}"
        " --output-csv {output.csv:q} --output-md {output.md:q} --output-tex {output.tex:q}"
        " --output-html {output.html:q} --log {log:q}"


# By testicle and by patient, which is what a clinic asks for.
rule make_levels:
    input:
        predictions=predictions_of(table_experiments(LEVELS)),
        parameters=table_parameters(LEVELS),
        index=result("views/labelled.csv"),
    output:
        testicles=result("finetuning/testicles.csv"),
        patients=result("finetuning/patients.csv"),
        csv=result("tables/levels.csv"),
        md=result("tables/levels.md"),
        tex=result("tables/levels.tex"),
        html=report(
            result("tables/levels.html"),
            category="Tables",
            labels={"table": "levels"},
            caption="../docs/captions/levels.rst",
        ),
    log:
        log_of("make_levels"),
    conda:
        "../envs/evaluation.yaml"
    params:
        rows=table_rows(LEVELS),
        experiments=" ".join(table_experiments(LEVELS)),
        classes=CLASSES,
        spread=config["tables"]["spread"],
        origin=ORIGIN_FLAG,
        code=code_version("aggregate"),
    shell:
        "exec python -m workflow_scripts.aggregate --rows {params.rows} --experiments {params.experiments}"
        " --predictions {input.predictions:q} --index {input.index:q} --classes {params.classes}"
        " --spread {params.spread} {params.origin} --output-testicles {output.testicles:q}"
        " --output-patients {output.patients:q} --output-csv {output.csv:q} --output-md {output.md:q}"
        " --output-tex {output.tex:q} --output-html {output.html:q} --log {log:q}"


# What the paper claims, one by one, and what this study says of it.
rule check_claims:
    input:
        numbers=[result(f"tables/{table}.csv") for table in [*SHOWN_TABLES, "generation"]],
        predictions=predictions_of(SHOWN_EXPERIMENTS),
        shares=result("figures/figure5.csv") if config["figures"]["explained"] else [],
    output:
        csv=result("tables/claims.csv"),
        md=result("tables/claims.md"),
        html=report(
            result("claims.html"),
            category="Claims",
            labels={"page": "the paper's claims"},
            caption="../docs/captions/claims.rst",
        ),
    log:
        log_of("check_claims"),
    conda:
        "../envs/evaluation.yaml"
    params:
        tables=" ".join([*SHOWN_TABLES, "generation"]),
        experiments=" ".join(SHOWN_EXPERIMENTS),
        classes=CLASSES,
        pretrained=" ".join(PRETRAINED),
        holdout=config["holdout"],
        pretraining_seeds=config["pretraining"]["seeds"],
        margin=config["tables"]["margin"],
        shares=f"--shares {quote(result('figures/figure5.csv'))}" if config["figures"]["explained"] else "",
        origin=ORIGIN_FLAG,
        code=code_version("claims"),
    shell:
        "exec python -m workflow_scripts.claims --tables {params.tables} --numbers {input.numbers:q}"
        " --experiments {params.experiments} --predictions {input.predictions:q} {params.shares}"
        " --classes {params.classes} --pretrained {params.pretrained} --holdout {params.holdout}"
        " --pretraining-seeds {params.pretraining_seeds} --margin {params.margin} {params.origin} --output-csv {output.csv:q} --output-md {output.md:q}"
        " --output-html {output.html:q} --log {log:q}"
