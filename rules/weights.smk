# Networks that others trained; fetched where there is a network (head nodes), never on a compute node.
WEIGHTS = weight_files(config)


localrules:
    fetch_weights,


rule fetch_weights:
    output:
        weights="weights/{file}",
    log:
        log_of("fetch_weights/{file}"),
    conda:
        "../envs/data.yaml"
    params:
        url=lambda wildcards: quote(WEIGHTS[f"weights/{wildcards.file}"].url),
        sha256=lambda wildcards: quote(WEIGHTS[f"weights/{wildcards.file}"].sha256),
    shell:
        "exec python -m workflow_scripts.fetch_weights --url {params.url} --sha256 {params.sha256}"
        " --output {output.weights:q} --log {log:q}"
