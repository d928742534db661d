# Tables 1-5, the generation table, what lies beside them, and the paper's claims.
CALIBRATION = config["figures"]["calibration"] if config["figures"]["calibration"] in SHOWN_TABLES else ""
LEAK = study.leak_experiments(config)
LEARNING = study.learning_experiments(config)
FILTER_CURVES = [result(f"synthesis/{cohort}filter_curve.csv") for cohort in COHORTS]
NUMBERED_TABLES = [*SHOWN_TABLES, "generation"]


rule make_table:
    input:
        lambda wildcards: table_parameters(wildcards.table),
        predictions=lambda wildcards: predictions_of(table_experiments(wildcards.table)),
        training=lambda wildcards: [
            result(f"finetuning/{name}/seed{seed}_training.csv")
            for name in trained_experiments(wildcards.table)
            for seed in SEEDS
        ],
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
            trained=lambda wildcards: trained_experiments(wildcards.table),
            classes=CLASSES,
            spread=config["tables"]["spread"],
            holdout_protocol=config["holdout"],
            pretraining_seeds=config["pretraining"]["seeds"],
            split_by=config["split_by"],
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


if LEVELS:

    # What a clinic would choose: thresholds for a wanted sensitivity or specificity, and what they reach.
    rule make_operating_points:
        input:
            table_parameters(LEVELS),
            predictions=predictions_of(table_experiments(LEVELS)),
            index=result("views/labelled.csv"),
        output:
            csv=result("tables/operating_points.csv"),
            md=result("tables/operating_points.md"),
            tex=result("tables/operating_points.tex"),
            html=report(
                result("tables/operating_points.html"),
                category="Tables",
                labels={"table": "operating points"},
                caption="../docs/captions/operating_points.rst",
            ),
            figure=report(
                result("figures/operating_points.png"),
                category="Classification",
                labels={"figure": "operating points"},
                caption="../docs/captions/operating_points.rst",
            ),
        log:
            log_of("make_operating_points"),
        localrule: True
        conda:
            "../envs/evaluation.yaml"
        params:
            **stage(
                "tables.make_operating_points",
                table=LEVELS,
                rows=table_rows(LEVELS),
                experiments=table_experiments(LEVELS),
                sensitivities=config["tables"]["operating_points"]["sensitivities"],
                specificities=config["tables"]["operating_points"]["specificities"],
                prevalence=config["tables"]["operating_points"].get("prevalence"),
                classes=CLASSES,
                origin=ORIGIN,
            ),
        shell:
            "{params.command} --log {log:q}"


if LEVELS and TOLD_APART:

    # Does the classifier work on every scanner, and in every centre?
    rule make_groups:
        input:
            table_parameters(LEVELS),
            predictions=predictions_of(table_experiments(LEVELS)),
            index=result("views/labelled.csv"),
        output:
            csv=result("tables/groups.csv"),
            md=result("tables/groups.md"),
            tex=result("tables/groups.tex"),
            html=report(
                result("tables/groups.html"),
                category="Tables",
                labels={"table": "groups"},
                caption="../docs/captions/groups.rst",
            ),
        log:
            log_of("make_groups"),
        localrule: True
        conda:
            "../envs/evaluation.yaml"
        params:
            **stage(
                "tables.make_groups",
                rows=table_rows(LEVELS),
                experiments=table_experiments(LEVELS),
                groups=TOLD_APART,
                split_by=config["split_by"],
                classes=CLASSES,
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


if PROBES:

    # How good each frozen network is with fewer labelled patients.
    rule draw_label_efficiency:
        input:
            efficiency=[result(f"finetuning/{experiment}/efficiency.csv") for experiment in PROBES],
        output:
            figure=report(
                result("figures/label_efficiency.png"),
                category="Classification",
                labels={"figure": "label efficiency"},
                caption="../docs/captions/label_efficiency.rst",
            ),
            csv=result("tables/label_efficiency.csv"),
        log:
            log_of("draw_label_efficiency"),
        localrule: True
        conda:
            "../envs/evaluation.yaml"
        params:
            **stage(
                "tables.draw_label_efficiency",
                names=list(PROBES.values()),
                positive=POSITIVE,
                origin=ORIGIN,
            ),
        shell:
            "{params.command} --log {log:q}"


if config["tables"]["table5"]["rows"]:

    # Do synthetic views teach?
    rule draw_synthetic:
        input:
            table_parameters("table5"),
            predictions=predictions_of(table_experiments("table5")),
        output:
            figure=report(
                result("figures/synthetic.png"),
                category="Classification",
                labels={"figure": "trained on synthetic, tested on real"},
                caption="../docs/captions/synthetic.rst",
            ),
        log:
            log_of("draw_synthetic"),
        localrule: True
        conda:
            "../envs/evaluation.yaml"
        params:
            **stage(
                "tables.draw_synthetic",
                rows=table_rows("table5"),
                experiments=table_experiments("table5"),
                synthetic_shares=[
                    study.synthetic_share(experiment, config)
                    for experiment in (study.experiment_of(row, config) for row in config["tables"]["table5"]["rows"])
                    if not experiment.is_baseline
                ],
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


# The rows of a table on patients that nothing learnt from.
rule make_external_table:
    input:
        lambda wildcards: table_parameters(wildcards.table),
        predictions=lambda wildcards: [
            result(f"external/{wildcards.external}/{name}.csv") for name in table_experiments(wildcards.table)
        ],
        index=result("views/external/{external}.csv"),
        # Folds of views predict no patient as a whole.
        study_predictions=lambda wildcards: (
            [] if config["split_by"] == "view" else predictions_of(table_experiments(wildcards.table))
        ),
        real_index=result("views/labelled.csv"),
        pairs=result("checks/near_duplicates.csv"),
    output:
        csv=result("tables/external/{external}/{table}.csv"),
        md=result("tables/external/{external}/{table}.md"),
        tex=result("tables/external/{external}/{table}.tex"),
        html=report(
            result("tables/external/{external}/{table}.html"),
            category="External test",
            labels={"result": "{table} on {external}"},
            caption="../docs/captions/external.rst",
        ),
        figure=report(
            result("figures/external/{external}/{table}.png"),
            category="External test",
            labels={"result": "{table} on {external}: AUROC"},
            caption="../docs/captions/external.rst",
        ),
        calibration=report(
            result("figures/external/{external}/{table}_calibration.png"),
            category="External test",
            labels={"result": "{table} on {external}: calibration"},
            caption="../docs/captions/external.rst",
        ),
    log:
        log_of("make_external_table/{external}/{table}"),
    localrule: True
    conda:
        "../envs/evaluation.yaml"
    params:
        **stage(
            "tables.make_external_table",
            table=wildcard("table"),
            external=wildcard("external"),
            title=lambda wildcards: EXTERNAL[wildcards.external].get("title", wildcards.external),
            seen_without_labels=lambda wildcards: EXTERNAL[wildcards.external]["seen_without_labels"],
            rows=lambda wildcards: table_rows(wildcards.table),
            experiments=lambda wildcards: table_experiments(wildcards.table),
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
        shortcuts=result("tables/shortcuts.csv"),
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
            titles=json.dumps(
                {name: each["title"] for name, each in EXTERNAL.items() if "title" in each}, ensure_ascii=False
            ),
            classes=CLASSES,
            split_by=config["split_by"],
            holdout_protocol=config["holdout"],
            pretraining_seeds=config["pretraining"]["seeds"],
            origin=ORIGIN,
        ),
    shell:
        "{params.command} --log {log:q}"
