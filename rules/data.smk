# Frames -> views, folds and the original labels (paper, Sec. 3).
localrules:
    draw_folds,
    complete_labels,
    find_near_duplicates,


rule draw_phantoms:
    input:
        manifest=DATA["manifest"],
        key=KEY,
    output:
        frames=result("phantoms/frames.csv"),
    log:
        log_of("draw_phantoms"),
    conda:
        "../envs/data.yaml"
    threads: 2
    params:
        root=quote(DATA["root"]),
        key=KEY_FLAG,
        target=DATA["target_organ"],
        positive=quote(DATA["classes"][1]),
        code=code_version("phantoms"),
    shell:
        "exec python -m workflow_scripts.phantoms frames --manifest {input.manifest:q} --root {params.root}"
        " --target-organ {params.target} --positive {params.positive} {params.key} --output {output.frames:q}"
        " --threads {threads} --log {log:q}"


# The frames themselves are no inputs: 26 000 of them would be looked at in every start of Snakemake. After
# replacing frames in place, `snakemake -R crop_views` cuts them again.
rule crop_views:
    input:
        manifest=DATA["manifest"],
        phantoms=frames_of_phantoms,
        key=KEY,
    output:
        views=result("views/{real_set}.npy"),
        index=result("views/{real_set}.csv"),
    log:
        log_of("crop_views/{real_set}"),
    # Before what takes a core for hours: this takes two for minutes, and every training waits for it.
    priority: 2
    conda:
        "../envs/data.yaml"
    threads: 2
    params:
        root=quote(DATA["root"]),
        target=DATA["target_organ"],
        profiles=quote(json.dumps(DATA["crop_profiles"])),
        size=DATA["size"],
        frames=quote(DATA["frames"]),
        key=KEY_FLAG,
        bad=DATA["on_bad_frame"],
        code=code_version("crop"),
    shell:
        "exec python -m workflow_scripts.crop --manifest {input.manifest:q} --root {params.root}"
        " --set {wildcards.real_set} --target-organ {params.target} --profiles {params.profiles}"
        " --size {params.size} --frames {params.frames} {params.key} --on-bad-frame {params.bad} --threads {threads}"
        " --output-views {output.views:q} --output-index {output.index:q} --log {log:q}"


rule draw_folds:
    input:
        index=result("views/labelled.csv"),
    output:
        folds=result("folds/{split}seed{seed}.csv"),
    log:
        log_of("draw_folds/{split}seed{seed}"),
    wildcard_constraints:
        split="(by_view/)?",
    conda:
        "../envs/data.yaml"
    params:
        folds=config["folds"],
        positive=quote(DATA["classes"][1]),
        split_by=lambda wildcards: "view" if wildcards.split else config["split_by"],
        code=code_version("folds"),
    shell:
        "exec python -m workflow_scripts.folds --index {input.index:q} --folds {params.folds}"
        " --seed {wildcards.seed} --positive {params.positive} --split-by {params.split_by} --output {output.folds:q} --log {log:q}"


rule complete_labels:
    input:
        index=result("views/labelled.csv"),
    output:
        labels=result("labels/complete.csv"),
    log:
        log_of("complete_labels"),
    conda:
        "../envs/data.yaml"
    params:
        code=code_version("complete_labels"),
    shell:
        "exec python -m workflow_scripts.complete_labels --index {input.index:q}"
        " --output {output.labels:q} --log {log:q}"


# Nearly identical views of different patients leak as a shared patient does.
rule find_near_duplicates:
    input:
        views=[result(f"views/{name}.npy") for name in REAL_SETS],
        indexes=[result(f"views/{name}.csv") for name in REAL_SETS],
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
    conda:
        "../envs/evaluation.yaml"
    params:
        names=" ".join(REAL_SETS),
        origin=ORIGIN_FLAG,
        code=code_version("near_duplicates"),
    shell:
        "exec python -m workflow_scripts.near_duplicates --names {params.names} --views {input.views:q}"
        " --indexes {input.indexes:q} {params.origin} --output {output.pairs:q}"
        " --output-figure {output.figure:q} --log {log:q}"
