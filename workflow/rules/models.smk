rule model:
    input:
        train="data/prepared/{dataset}/train.parquet",
        val="data/prepared/{dataset}/val.parquet",
        test="data/prepared/{dataset}/test.parquet",
        record="data/prepared/{dataset}/dataset.json",
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
        **study.needs("model"),
        gpu=study.gpus,
    params:
        settings=study.settings_of("model", "preprocess", "seed", "device"),
        code=study.code("fgg.models.build_model"),
    message:
        "Making the model of {wildcards.dataset}"
    shell:
        "python -m fgg.models.build_model --data data/prepared/{wildcards.dataset} --settings {params.settings:q}"
        " --output data/models/{wildcards.dataset} > {log} 2>&1"


rule sae:
    input:
        model="data/models/{dataset}/model.safetensors",
        record="data/models/{dataset}/model.json",
        train="data/prepared/{dataset}/train.parquet",
        val="data/prepared/{dataset}/val.parquet",
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
        **study.needs("sae"),
        gpu=study.gpus,
    params:
        settings=study.sae_settings,
        code=study.sae_code,
    message:
        "Making the SAE of layer {wildcards.layer} of {wildcards.dataset}"
    shell:
        "python -m fgg.saes.build_sae --model data/models/{wildcards.dataset}"
        " --data data/prepared/{wildcards.dataset} --layer {wildcards.layer} --settings {params.settings:q}"
        " --output data/saes/{wildcards.dataset}/layer_{wildcards.layer} > {log} 2>&1"
