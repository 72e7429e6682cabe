rule model:
    input:
        data=inputs.prepared_dataset,
        own=inputs.model_weights,
    output:
        weights="data/models/{dataset}/model.safetensors",
        record="data/models/{dataset}/model.json",
    log:
        "logs/model/{dataset}.log",
    benchmark:
        "benchmarks/model/{dataset}.tsv"
    conda:
        "../../envs/fgg.yaml"
    threads: 2
    resources:
        **parameters.needs("model"),
        gpu=parameters.gpus,
    params:
        data=inputs.prepared_folder,
        settings=parameters.model_settings,
        code=parameters.code("fgg.models.build_model"),
    message:
        "Making the model of {wildcards.dataset}"
    shell:
        "python -m fgg.models.build_model --data {params.data} --settings {params.settings:q}"
        " --output data/models/{wildcards.dataset} > {log} 2>&1"


rule sae:
    input:
        model=inputs.model_files,
        data=inputs.prepared_dataset,
        own=inputs.sae_weights,
    output:
        config="data/saes/{dataset}/layer_{layer}/cfg.json",
        weights="data/saes/{dataset}/layer_{layer}/sae_weights.safetensors",
        metrics="data/saes/{dataset}/layer_{layer}/metrics.json",
    log:
        "logs/sae/{dataset}/layer_{layer}.log",
    benchmark:
        "benchmarks/sae/{dataset}/layer_{layer}.tsv"
    priority: 3  # before the maps, so that all experiments share the model's passes over the images
    conda:
        "../../envs/fgg.yaml"
    resources:
        **parameters.needs("sae"),
        gpu=parameters.gpus,
    params:
        model=inputs.model_folder,
        data=inputs.prepared_folder,
        settings=parameters.sae_settings,
        code=parameters.sae_code,
    message:
        "Making the SAE of layer {wildcards.layer} of {wildcards.dataset}"
    shell:
        "python -m fgg.saes.build_sae --model {params.model}"
        " --data {params.data} --layer {wildcards.layer} --settings {params.settings:q}"
        " --output data/saes/{wildcards.dataset}/layer_{wildcards.layer} > {log} 2>&1"
