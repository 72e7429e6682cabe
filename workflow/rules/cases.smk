rule prototypes:
    input:
        images=inputs.prototype_images,
        model=inputs.model_files,
        sae="data/saes/{dataset}/layer_{layer}/sae_weights.safetensors",
    output:
        table="results/{dataset}/prototypes/layer_{layer}.parquet",
    log:
        "logs/prototypes/{dataset}/layer_{layer}.log",
    benchmark:
        "benchmarks/prototypes/{dataset}/layer_{layer}.tsv"
    conda:
        ENVIRONMENT
    resources:
        **parameters.needs("prototypes"),
        gpu=parameters.gpus,
    params:
        model=inputs.model_folder,
        settings=parameters.settings_of(
            "cases.prototypes", "cases.prototype_images", *RUN_KEYS
        ),
        code=parameters.code("fgg.cases.prototypes"),
    message:
        "Prototypes of the features of layer {wildcards.layer} of {wildcards.dataset}"
    shell:
        "python -m fgg.cases.prototypes --model {params.model}"
        " --sae data/saes/{wildcards.dataset}/layer_{wildcards.layer} --layer {wildcards.layer}"
        " --images {input.images} --settings {params.settings:q} --output {output.table} > {log} 2>&1"


rule cases:
    input:
        images=inputs.explained_images,
        others=inputs.prototype_images,
        model=inputs.model_files,
        saes=inputs.gate_saes,
        quality=inputs.gate_sae_measures,
        prototypes=inputs.gate_prototypes,
        vanilla="results/{dataset}/attributions/transmm.parquet",
        gated="results/{dataset}/attributions/{experiment}.parquet",
        gates="results/{dataset}/gates/{experiment}.parquet",
        scores=inputs.case_scores,
        measurable="results/{dataset}/images.parquet",
    output:
        folder=report(
            directory("results/{dataset}/cases/{experiment}"),
            patterns=["layer_{layer}/{kind}/{name}.png", "{name,[a-z]+}.csv"],
            caption="../report/case.rst",
            category="Case studies",
            subcategory="{dataset}: {experiment}",
            labels=case_names,
        ),
    log:
        "logs/cases/{dataset}/{experiment}.log",
    benchmark:
        "benchmarks/cases/{dataset}/{experiment}.tsv"
    conda:
        ENVIRONMENT
    resources:
        **parameters.needs("cases"),
        gpu=parameters.gpus,
    params:
        model=inputs.model_folder,
        experiment=parameters.experiment,
        saes=parameters.sae_arguments,
        settings=parameters.settings_of(
            "cases.per_category",
            "cases.patches",
            "max_images",
            "sample",
            "quality",
            *RUN_KEYS,
        ),
        baseline=config["baseline"],
        metrics=parameters.measures,
        code=parameters.code("fgg.cases.__main__"),
    message:
        "Case studies of {wildcards.dataset}: {wildcards.experiment}"
    shell:
        "python -m fgg.cases --model {params.model} --images {input.images}"
        " --metrics {params.metrics:q} --prototype-images {input.others} {params.saes} --results results/{wildcards.dataset}"
        " --dataset {wildcards.dataset} --id {wildcards.experiment} --experiment {params.experiment:q}"
        " --baseline {params.baseline} --settings {params.settings:q} --output {output.folder} > {log} 2>&1"


rule feature_statistics:
    input:
        images=inputs.prototype_images,
        explained=inputs.explained_images,
        model=inputs.model_files,
        sae="data/saes/{dataset}/layer_{layer}/sae_weights.safetensors",
        maps="results/{dataset}/attributions/transmm.parquet",
        prototypes="results/{dataset}/prototypes/layer_{layer}.parquet",
        cases=inputs.case_studies_of,
    output:
        table="results/{dataset}/feature_statistics/layer_{layer}.parquet",
    log:
        "logs/feature_statistics/{dataset}/layer_{layer}.log",
    benchmark:
        "benchmarks/feature_statistics/{dataset}/layer_{layer}.tsv"
    conda:
        ENVIRONMENT
    resources:
        **parameters.needs("feature_statistics"),
        gpu=parameters.gpus,
    params:
        model=inputs.model_folder,
        settings=parameters.settings_of(
            "cases.pages", "cases.prototype_images", "max_images", "sample", *RUN_KEYS
        ),
        code=parameters.code("fgg.cases.feature_statistics"),
    message:
        "What the features of layer {wildcards.layer} of {wildcards.dataset} respond to"
    shell:
        "python -m fgg.cases.feature_statistics --model {params.model}"
        " --sae data/saes/{wildcards.dataset}/layer_{wildcards.layer} --layer {wildcards.layer}"
        " --images {input.images} --explained-images {input.explained} --maps {input.maps}"
        " --prototypes {input.prototypes} --cases {input.cases} --settings {params.settings:q}"
        " --output {output.table} > {log} 2>&1"


rule feature_pages:
    input:
        tables=inputs.feature_tables,
        images=inputs.explained_images,
        others=inputs.prototype_images,
        model=inputs.model_files,
        cases=inputs.case_studies_of,
    output:
        folder=report(
            directory("results/{dataset}/features"),
            patterns=["layer_{layer}/{name}.html", "{name,index}.html"],
            caption="../report/feature.rst",
            category="Features",
            subcategory="{dataset}",
            labels=feature_page_names,
        ),
    log:
        "logs/feature_pages/{dataset}.log",
    conda:
        ENVIRONMENT
    resources:
        **parameters.needs("feature_pages"),
    params:
        model=inputs.model_folder,
        layers=inputs.feature_layers,
        settings=parameters.settings_of("cases.prototypes"),
        names=parameters.feature_names,
        code=parameters.feature_page_code,
    message:
        "Pages of the features of {wildcards.dataset}"
    shell:
        "python -m fgg.cases.feature_pages --model {params.model} --images {input.images}"
        " --prototype-images {input.others} --layers {params.layers} --cases {input.cases}"
        " --statistics results/{wildcards.dataset}/feature_statistics"
        " --prototypes results/{wildcards.dataset}/prototypes --dataset {wildcards.dataset}"
        " --settings {params.settings:q} --output {output.folder} > {log} 2>&1"
