# Frames -> views, folds, and a first look at them (paper, Sec. 3); downloads of networks that others trained.
WEIGHTS = weight_files(config)


# Fetched where there is a network (head nodes), never on a compute node.
rule fetch_weights:
    output:
        weights="weights/{file}",
    log:
        log_of("fetch_weights/{file}"),
    localrule: True
    conda:
        "../envs/data.yaml"
    params:
        **stage(
            "data.fetch_weights",
            url=lambda wildcards: WEIGHTS[f"weights/{wildcards.file}"].url,
            sha256=lambda wildcards: WEIGHTS[f"weights/{wildcards.file}"].sha256,
        ),
    shell:
        "{params.command} --log {log:q}"


if ORIGIN:

    rule draw_phantoms:
        input:
            manifest=lambda wildcards: frames_of(wildcards.source)["manifest"],
            patient_key=PATIENT_KEY,
        output:
            frames=result("phantoms/{source}frames.csv"),
        log:
            log_of("draw_phantoms/{source}frames"),
        wildcard_constraints:
            source=f"({'|'.join(f'{name}/' for name in EXTERNAL_SETS)})?",
        conda:
            "../envs/data.yaml"
        threads: 2
        params:
            **stage(
                "data.draw_phantoms",
                root=lambda wildcards: frames_of(wildcards.source)["root"],
                target_organ=DATA["target_organ"],
                positive=POSITIVE,
            ),
        shell:
            "{params.command} --log {log:q}"


# The frames themselves are no inputs: 26 000 of them would be looked at in every start of Snakemake. After
# replacing frames in place, `snakemake -R crop_views` cuts them again.
rule crop_views:
    input:
        drawn_frames,
        manifest=lambda wildcards: frames_of(wildcards.real_set)["manifest"],
        patient_key=PATIENT_KEY,
    output:
        views=result("views/{real_set}.npy"),
        index=result("views/{real_set}.csv"),
        text=result("checks/text_{real_set}.csv"),
        figure=report(
            result("figures/text_{real_set}.png"),
            category="Data",
            labels={"figure": "text in views: {real_set}"},
            caption="../docs/captions/text.rst",
        ),
    log:
        log_of("crop_views/{real_set}"),
    # Before what takes a core for hours: this takes two for minutes, and every training run waits for it.
    priority: 2
    conda:
        "../envs/data.yaml"
    threads: 2
    params:
        **stage(
            "data.crop_views",
            root=lambda wildcards: frames_of(wildcards.real_set)["root"],
            set=lambda wildcards: LABELLED_SET if wildcards.real_set in EXTERNAL_SETS else wildcards.real_set,
            target_organ=DATA["target_organ"],
            profiles=json.dumps(DATA["crop_profiles"]),
            size=DATA["size"],
            clip_frames=DATA["frames"],
            on_bad_frame=DATA["on_bad_frame"],
            on_text=DATA["on_text"],
            origin=ORIGIN,
        ),
    shell:
        "{params.command} --log {log:q}"


rule draw_folds:
    input:
        index=result("views/labelled.csv"),
    output:
        folds=result("folds/{split}seed{seed}.csv"),
    log:
        log_of("draw_folds/{split}seed{seed}"),
    wildcard_constraints:
        split="(by_view/)?",
    localrule: True
    conda:
        "../envs/data.yaml"
    params:
        **stage(
            "data.draw_folds",
            fold_count=config["folds"],
            seed=wildcard("seed"),
            positive=POSITIVE,
            split_by=lambda wildcards: "view" if wildcards.split else config["split_by"],
        ),
    shell:
        "{params.command} --log {log:q}"


# Nearly identical views of different patients leak as a shared patient does.
rule find_near_duplicates:
    input:
        views=[result(f"views/{name}.npy") for name in [*REAL_SETS, *EXTERNAL_SETS]],
        index=[result(f"views/{name}.csv") for name in [*REAL_SETS, *EXTERNAL_SETS]],
    output:
        pairs=result("checks/near_duplicates.csv"),
        figure=report(
            result("figures/near_duplicates.png"),
            category="Data",
            labels={"figure": "near-duplicates"},
            caption="../docs/captions/near_duplicates.rst",
        ),
    log:
        log_of("find_near_duplicates"),
    localrule: True
    conda:
        "../envs/evaluation.yaml"
    params:
        **stage("data.find_near_duplicates", names=[*REAL_SETS, *EXTERNAL_SETS], origin=ORIGIN),
    shell:
        "{params.command} --log {log:q}"


rule draw_frames:
    input:
        DRAWN_FRAMES,
        manifest=DATA["manifest"],
        patient_key=PATIENT_KEY,
    output:
        figure=report(
            result("figures/figure1.png"),
            category="Data",
            labels={"figure": "1: frames and crop boxes"},
            caption="../docs/captions/figure1.rst",
        ),
    log:
        log_of("draw_frames"),
    localrule: True
    conda:
        "../envs/evaluation.yaml"
    params:
        **stage(
            "data.draw_frames",
            root=DATA["root"],
            profiles=json.dumps(DATA["crop_profiles"]),
            shown=config["figures"]["frames"],
            blur=config["figures"]["blur"],
            origin=ORIGIN,
        ),
    shell:
        "{params.command} --log {log:q}"


rule draw_views:
    input:
        views=result("views/{real_set}.npy"),
        index=result("views/{real_set}.csv"),
    output:
        figure=report(
            result("figures/views_{real_set}.png"),
            category="Data",
            labels={"figure": "views: {real_set}"},
            caption="../docs/captions/views.rst",
        ),
    log:
        log_of("draw_views/{real_set}"),
    localrule: True
    conda:
        "../envs/evaluation.yaml"
    params:
        **stage(
            "data.draw_views",
            title=wildcard("real_set"),
            shown=config["figures"]["views_per_sheet"],
            origin=ORIGIN,
        ),
    shell:
        "{params.command} --log {log:q}"
