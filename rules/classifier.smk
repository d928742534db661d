# The fold x seed ensemble of one experiment, calibrated, as one folder to use on new frames.
if CLASSIFIER:

    rule pack_classifier:
        input:
            predictions=predictions_of(CLASSIFIER),
            weights=[
                result(f"finetuning/{name}/seed{seed}_fold{fold}.safetensors")
                for name in CLASSIFIER
                for seed in SEEDS
                for fold in FOLDS
            ],
            views=result("views/labelled.npy"),
            index=result("views/labelled.csv"),
        output:
            folder=directory(result("classifier")),
        log:
            log_of("pack_classifier"),
        conda:
            "../envs/training.yaml"
        threads: 1
        resources:
            gpu=1,
        params:
            **stage(
                "classifier.pack_classifier",
                experiment=CLASSIFIER[0],
                profiles=json.dumps(DATA["crop_profiles"]),
                size=DATA["size"],
                classes=CLASSES,
                truth=config["classifier"]["truth"],
                origin=ORIGIN,
            ),
        shell:
            "{params.command} --log {log:q}"
