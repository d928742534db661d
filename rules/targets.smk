# The named targets: everything that a stage makes (`all` is in the Snakefile).
localrules:
    crop,
    audit,
    diffusion,
    synthesis,
    pretraining,
    finetuning,
    tables,
    figures,
    report,


rule crop:
    input:
        [result(f"views/{name}.npy") for name in REAL_SETS],


rule audit:
    input:
        result("audit/votes.csv"),
        result("review.html"),
        [result("audit/agreement.csv")] if config["audit"]["decisions"] else [],
        [result(f"labels/{policy}.csv") for policy in ("complete", "filtered", "flipped")],


rule diffusion:
    input:
        [config["diffusion"]["model"] or result(f"diffusion/{cohort}model") for cohort in COHORTS],


rule synthesis:
    input:
        [result(f"synthesis/{cohort}{name}") for cohort in COHORTS for name in ("metrics.csv", "privacy.json")],
        [result(f"release/{cohort}synthetic.zip") for cohort in COHORTS],
        PNG_FOLDERS,


rule pretraining:
    input:
        [
            result(f"pretraining/{run}/{repeat}{cohort}backbone.safetensors")
            for run in PRETRAINED
            for repeat in study.repeats(config)
            for cohort in COHORTS
        ],


rule finetuning:
    input:
        [result(f"finetuning/{experiment}/seed{seed}.csv") for experiment in EXPERIMENTS for seed in SEEDS],


rule tables:
    input:
        table_files(),
        result("claims.html"),


rule figures:
    input:
        [result(f"figures/{figure}.png") for figure in FIGURES],


rule report:
    input:
        result("report.html"),
