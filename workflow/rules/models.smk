rule model:
    input:
        data=inputs.prepared_dataset,
        own=ancient(nameable(inputs.model_weights)),
    output:
        weights="data/models/{dataset}/model.safetensors",
        record="data/models/{dataset}/model.json",
    log:
        "logs/model/{dataset}.log",
    benchmark:
        "benchmarks/model/{dataset}.tsv"
    conda:
        ENVIRONMENT
    threads: 2
    resources:
        **parameters.needs("model"),
        gpu=parameters.gpus,
    params:
        data=inputs.prepared_folder,
        settings=parameters.model_settings,
        content=parameters.content(inputs.model_weights),
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
        own=ancient(nameable(inputs.sae_weights)),
    output:
        config="data/saes/{dataset}/layer_{layer}/cfg.json",
        weights="data/saes/{dataset}/layer_{layer}/sae_weights.safetensors",
        metrics="data/saes/{dataset}/layer_{layer}/metrics.json",
    log:
        "logs/sae/{dataset}/layer_{layer}.log",
    benchmark:
        "benchmarks/sae/{dataset}/layer_{layer}.tsv"
    wildcard_constraints:
        dataset=study.swept(False),
    priority: 3  # before the maps, so that all experiments share the model's passes over the images
    conda:
        ENVIRONMENT
    resources:
        **parameters.needs("sae"),
        gpu=parameters.gpus,
    params:
        model=inputs.model_folder,
        data=inputs.prepared_folder,
        settings=parameters.sae_settings,
        content=parameters.content(inputs.sae_weights),
        code=parameters.sae_code,
        like=[],
        output=subpath(output.config, parent=True),
    message:
        "Making the SAE of layer {wildcards.layer} of {wildcards.dataset}"
    shell:
        "python -m fgg.saes.build_sae --model {params.model}"
        " --data {params.data} --layer {wildcards.layer} --settings {params.settings:q}"
        " {params.like} --output {params.output} > {log} 2>&1"


# The SAEs of a sweep, and those whose features were not learnt (controls of the dictionary).
use rule sae as sae_variant with:
    input:
        model=inputs.model_files,
        data=inputs.prepared_dataset,
        like=inputs.like_the_chosen,
    output:
        config="data/saes/{dataset}/{variant}/layer_{layer}/cfg.json",
        weights="data/saes/{dataset}/{variant}/layer_{layer}/sae_weights.safetensors",
        metrics="data/saes/{dataset}/{variant}/layer_{layer}/metrics.json",
    log:
        "logs/sae/{dataset}/{variant}/layer_{layer}.log",
    benchmark:
        "benchmarks/sae/{dataset}/{variant}/layer_{layer}.tsv"
    wildcard_constraints:
        variant=study.sae_variants(),
        dataset="|".join(map(re.escape, study.settings)),
    params:
        model=inputs.model_folder,
        data=inputs.prepared_folder,
        settings=parameters.sae_settings,
        content="",
        code=parameters.sae_code,
        like=inputs.like_arguments,
        output=subpath(output.config, parent=True),
    message:
        "Making the SAE of layer {wildcards.layer} of {wildcards.dataset}: {wildcards.variant}"


rule chosen_sae:
    input:
        candidates=inputs.sae_candidates,
    output:
        config="data/saes/{dataset}/layer_{layer}/cfg.json",
        weights="data/saes/{dataset}/layer_{layer}/sae_weights.safetensors",
        metrics="data/saes/{dataset}/layer_{layer}/metrics.json",
        table="results/{dataset}/sae_sweep/layer_{layer}.csv",
    log:
        "logs/sae/{dataset}/layer_{layer}.log",
    wildcard_constraints:
        dataset=study.swept(),
    priority: 3
    conda:
        ENVIRONMENT
    resources:
        **parameters.needs("measurable"),
    params:
        settings=parameters.choice_settings,
        code=parameters.code("fgg.saes.choose_sae"),
    message:
        "Choosing the SAE of layer {wildcards.layer} of {wildcards.dataset}"
    shell:
        "python -m fgg.saes.choose_sae --layer {wildcards.layer} --settings {params.settings:q}"
        " --folder data/saes/{wildcards.dataset}/sweep --table {output.table}"
        " --output data/saes/{wildcards.dataset}/layer_{wildcards.layer} > {log} 2>&1"
