# Tables 1-4 and the generation table.
localrules:
    make_table,
    make_generation_table,
    make_leak_table,


rule make_table:
    input:
        predictions=lambda wildcards: [
            result(f"finetuning/{experiment}/seed{seed}.csv")
            for experiment in table_experiments(wildcards.table)
            for seed in SEEDS
        ],
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
        origin=ORIGIN_FLAG,
        code=code_version("table"),
    shell:
        "exec python -m workflow_scripts.table --table {wildcards.table} --rows {params.rows}"
        " --experiments {params.experiments} --predictions {input.predictions:q}"
        " --classes {params.classes} --spread {params.spread} --holdout {params.holdout}"
        " {params.reference} {params.origin} --output-csv {output.csv:q} --output-md {output.md:q}"
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
