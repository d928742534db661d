# Tables 1-4, the generation table, what lies beside them, and the paper's claims.
CALIBRATION = config["figures"]["calibration"] if config["figures"]["calibration"] in SHOWN_TABLES else ""
LEAK = study.leak_experiments(config)
FILTER_CURVES = [result(f"synthesis/{cohort}filter_curve.csv") for cohort in COHORTS]
NUMBERED_TABLES = [*SHOWN_TABLES, "generation"]


rule make_table:
    input:
        lambda wildcards: table_parameters(wildcards.table),
        predictions=lambda wildcards: predictions_of(table_experiments(wildcards.table)),
        curve=lambda wildcards: FILTER_CURVES if "filter_rule" in table_facts(wildcards.table, config) else [],
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
    localrule: True
    conda:
        "../envs/evaluation.yaml"
    params:
        **stage(
            "tables.make_table",
            table=wildcard("table"),
            rows=lambda wildcards: table_rows(wildcards.table),
            experiments=lambda wildcards: table_experiments(wildcards.table),
            classes=CLASSES,
            spread=config["tables"]["spread"],
            holdout_protocol=config["holdout"],
            pretraining_seeds=config["pretraining"]["seeds"],
            protocol=lambda wildcards: json.dumps(table_facts(wildcards.table, config)),
            reference_numbers=REFERENCE_NUMBERS,
            origin=ORIGIN,
        ),
    shell:
        "{params.command} --log {log:q}"


rule make_generation_table:
    input:
        metrics=[result(f"synthesis/{cohort}metrics.csv") for cohort in COHORTS],
        filter=[result(f"synthesis/{cohort}filter.csv") for cohort in COHORTS],
        curve=FILTER_CURVES,
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
    localrule: True
    conda:
        "../envs/evaluation.yaml"
    params:
        **stage(
            "tables.make_generation_table",
            holdout_protocol=config["holdout"],
            protocol=json.dumps(metric_facts(config)),
            reference_numbers=REFERENCE_NUMBERS,
            origin=ORIGIN,
        ),
    shell:
        "{params.command} --log {log:q}"


if LEAK:

    # The same fine-tuning with folds of patients and with folds of views, as the paper's released code draws them.
    rule make_leak_table:
        input:
            by_patient=predictions_of([experiment.name for experiment in LEAK[:1]]),
            by_view=predictions_of([experiment.name for experiment in LEAK[1:]]),
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
        localrule: True
        conda:
            "../envs/evaluation.yaml"
        params:
            **stage(
                "tables.make_leak_table",
                title=config["tables"]["leak"],
                positive=POSITIVE,
                spread=config["tables"]["spread"],
                origin=ORIGIN,
            ),
        shell:
            "{params.command} --log {log:q}"


if LEVELS:

    # By organ side and by patient, which is what a clinic asks for.
    rule make_levels:
        input:
            table_parameters(LEVELS),
            predictions=predictions_of(table_experiments(LEVELS)),
            index=result("views/labelled.csv"),
        output:
            organ_sides=result("finetuning/organ_sides.csv"),
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
        localrule: True
        conda:
            "../envs/evaluation.yaml"
        params:
            **stage(
                "tables.make_levels",
                rows=table_rows(LEVELS),
                experiments=table_experiments(LEVELS),
                classes=CLASSES,
                spread=config["tables"]["spread"],
                origin=ORIGIN,
            ),
        shell:
            "{params.command} --log {log:q}"


if CALIBRATION:

    rule draw_calibration:
        input:
            table_parameters(CALIBRATION),
            predictions=predictions_of(table_experiments(CALIBRATION)),
        output:
            figure=report(
                result("figures/calibration.png"),
                category="Classification",
                labels={"figure": "calibration"},
                caption="../docs/captions/calibration.rst",
            ),
        log:
            log_of("draw_calibration"),
        localrule: True
        conda:
            "../envs/evaluation.yaml"
        params:
            **stage(
                "tables.draw_calibration",
                rows=table_rows(CALIBRATION),
                experiments=table_experiments(CALIBRATION),
                classes=CLASSES,
                origin=ORIGIN,
            ),
        shell:
            "{params.command} --log {log:q}"


# What the paper claims, one by one, and what this study says of it.
rule check_claims:
    input:
        [file for table in SHOWN_TABLES for file in table_parameters(table)],
        numbers=[result(f"tables/{table}.csv") for table in NUMBERED_TABLES],
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
    localrule: True
    conda:
        "../envs/evaluation.yaml"
    params:
        **stage(
            "tables.check_claims",
            tables=NUMBERED_TABLES,
            rows=[table_rows(table) for table in SHOWN_TABLES],
            experiments=SHOWN_EXPERIMENTS,
            classes=CLASSES,
            holdout_protocol=config["holdout"],
            pretraining_seeds=config["pretraining"]["seeds"],
            margin=config["tables"]["margin"],
            origin=ORIGIN,
        ),
    shell:
        "{params.command} --log {log:q}"
