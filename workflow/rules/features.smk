rule feature_deletion:
    input:
        images=inputs.explained_images,
        model=inputs.model_files,
        sae="data/saes/{dataset}/layer_{layer}/sae_weights.safetensors",
    output:
        table="results/{dataset}/feature_deletion/layer_{layer}.parquet",
        alone="results/{dataset}/feature_deletion/alone/layer_{layer}.parquet",
    log:
        "logs/feature_deletion/{dataset}/layer_{layer}.log",
    benchmark:
        "benchmarks/feature_deletion/{dataset}/layer_{layer}.tsv"
    conda:
        ENVIRONMENT
    resources:
        **parameters.needs("feature_deletion"),
        gpu=parameters.gpus,
    params:
        model=inputs.model_folder,
        settings=parameters.deletion_settings,
        code=parameters.code("fgg.features.__main__"),
    message:
        "Deleting features of layer {wildcards.layer} of {wildcards.dataset}"
    shell:
        "python -m fgg.features --model {params.model}"
        " --sae data/saes/{wildcards.dataset}/layer_{wildcards.layer} --layer {wildcards.layer}"
        " --images {input.images} --settings {params.settings:q} --output {output.table}"
        " --alone {output.alone} > {log} 2>&1"


rule feature_deletion_summary:
    input:
        tables=inputs.deletion_tables,
    output:
        table="results/feature_deletion.csv",
    log:
        "logs/feature_deletion_summary.log",
    conda:
        ENVIRONMENT
    resources:
        **parameters.needs("sanity"),
    params:
        settings=parameters.deletion_summary_settings(),
        code=parameters.code("fgg.features.summary"),
    message:
        "Comparing deleted features with random ones"
    shell:
        "python -m fgg.features.summary --settings {params.settings:q} --results results"
        " --output {output.table} > {log} 2>&1"
