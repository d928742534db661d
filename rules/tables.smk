# Tables 1-4, the generation table, what lies beside them, and the paper's claims.
CALIBRATION = config["figures"]["calibration"] if config["figures"]["calibration"] in SHOWN_TABLES else ""
LEAK = study.leak_experiments(config)
LEARNING = study.learning_experiments(config)
NUMBERED_TABLES = [*SHOWN_TABLES, "generation"]


rule make_table:
    input:
        lambda wildcards: table_parameters(wildcards.table),
        predictions=lambda wildcards: predictions_of(table_experiments(wildcards.table)),
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
        figure=report(
            result("figures/forest_{table}.png"),
            category="Tables",
            labels={"table": "{table}, as a forest plot"},
            caption="../docs/captions/forest.rst",
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
            reference_numbers=REFERENCE_NUMBERS,
            origin=ORIGIN,
        ),
    shell:
        "{params.command} --log {log:q}"


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
    localrule: True
    conda:
        "../envs/evaluation.yaml"
    params:
        **stage(
            "tables.make_generation_table",
            holdout_protocol=config["holdout"],
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


if LEARNING:

    # Would more patients help?
    rule draw_learning_curve:
        input:
            predictions=predictions_of([experiment.name for experiment in LEARNING.values()]),
        output:
            figure=report(
                result("figures/learning_curve.png"),
                category="Classification",
                labels={"figure": "learning curve"},
                caption="../docs/captions/learning_curve.rst",
            ),
        log:
            log_of("draw_learning_curve"),
        localrule: True
        conda:
            "../envs/evaluation.yaml"
        params:
            **stage(
                "tables.draw_learning_curve",
                experiments=[experiment.name for experiment in LEARNING.values()],
                percents=list(LEARNING),
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


# The page to read first, made last.
MAIN_TABLE = next((table for table in ("table2", *SHOWN_TABLES) if table in SHOWN_TABLES), "")
PICTURES = {
    "figure1": "Frames and crop boxes",
    f"{COHORTS[0]}figure4": "Generated views that the filter keeps and discards",
    f"{COHORTS[0]}closest_pairs": "Generated views, each with the training view closest to it",
    **(
        {"figure5": "What the classifiers look at, with and without markers"}
        if EXPLAINED
        else {"training": "Loss curves of pretraining and generator"}
    ),
}


rule make_front_page:
    input:
        table_parameters(MAIN_TABLE),
        index=result("views/labelled.csv"),
        votes=result("audit/votes.csv"),
        pairs=result("checks/near_duplicates.csv"),
        summaries=[result(f"synthesis/{cohort}privacy.json") for cohort in COHORTS],
        claims=result("tables/claims.csv"),
        numbers=result(f"tables/{MAIN_TABLE}.csv") if MAIN_TABLE else [],
        predictions=predictions_of(table_experiments(MAIN_TABLE)),
        agreement=result("audit/agreement.csv") if config["audit"]["decisions"] else [],
        figures=[result(f"figures/{picture}.png") for picture in PICTURES],
        pages=[
            *[result(f"{page}.html") for page in ("report", "review", "claims")],
            result(f"synthesis/{COHORTS[0]}privacy.html"),
            *[result(f"tables/{table}.html") for table in TABLES],
        ],
    output:
        page=result("index.html"),
    log:
        log_of("make_front_page"),
    localrule: True
    conda:
        "../envs/evaluation.yaml"
    params:
        **stage(
            "tables.make_front_page",
            table=MAIN_TABLE,
            rows=lambda wildcards: table_rows(MAIN_TABLE) if MAIN_TABLE else "",
            experiments=table_experiments(MAIN_TABLE),
            names=list(PICTURES.values()),
            classes=CLASSES,
            split_by=config["split_by"],
            holdout_protocol=config["holdout"],
            pretraining_seeds=config["pretraining"]["seeds"],
            origin=ORIGIN,
        ),
    shell:
        "{params.command} --log {log:q}"
