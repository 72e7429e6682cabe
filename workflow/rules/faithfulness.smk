rule responses:
    input:
        images=inputs.explained_images,
        model=inputs.model_files,
    output:
        responses=piece("results/{dataset}/{shard}responses.parquet"),
    log:
        "logs/responses/{shard}{dataset}.log",
    benchmark:
        "benchmarks/responses/{shard}{dataset}.tsv"
    priority: 1
    conda:
        ENVIRONMENT
    resources:
        **parameters.needs("responses"),
        gpu=parameters.gpus,
    params:
        model=inputs.model_folder,
        settings=parameters.response_settings(),
        shard=parameters.shard,
        code=parameters.code("fgg.faithfulness.responses"),
    message:
        "The model's answers to random patch subsets of {wildcards.dataset} {wildcards.shard}"
    shell:
        "python -m fgg.faithfulness.responses --model {params.model} --images {input.images}"
        " --settings {params.settings:q} --shard {params.shard} --output {output.responses} > {log} 2>&1"


rule measurable:
    input:
        responses="results/{place}/responses.parquet",
    output:
        images="results/{place}/images.parquet",
    log:
        "logs/measurable/{place}.log",
    wildcard_constraints:
        place=study.places(),
    conda:
        ENVIRONMENT
    resources:
        **parameters.needs("measurable"),
    params:
        settings=parameters.measurable_settings,
        code=parameters.code("fgg.faithfulness.measurable"),
    message:
        "Finding the measurable images of {wildcards.place}"
    shell:
        "python -m fgg.faithfulness.measurable --responses {input.responses} --settings {params.settings:q}"
        " --output {output.images} > {log} 2>&1"


rule faithfulness:
    input:
        images=inputs.explained_images,
        model=inputs.model_files,
        attributions="results/{dataset}/attributions/{experiment}.parquet",
        responses=inputs.response_table,
    output:
        faithfulness=piece("results/{dataset}/{shard}faithfulness/{experiment}.parquet"),
        curves=piece("results/{dataset}/{shard}curves/{experiment}.parquet"),
    log:
        "logs/faithfulness/{dataset}/{shard}{experiment}.log",
    benchmark:
        "benchmarks/faithfulness/{dataset}/{shard}{experiment}.tsv"
    conda:
        ENVIRONMENT
    resources:
        **parameters.needs("faithfulness"),
        gpu=parameters.gpus,
    params:
        model=inputs.model_folder,
        responses=inputs.response_arguments,
        settings=parameters.score_settings(),
        shard=parameters.shard,
        code=parameters.score_code,
    message:
        "Faithfulness of {wildcards.dataset}: {wildcards.shard}{wildcards.experiment}"
    shell:
        "python -m fgg.faithfulness --model {params.model} --images {input.images}"
        " --attributions {input.attributions} {params.responses} --settings {params.settings:q}"
        " --shard {params.shard} --code {params.code} --output {output.faithfulness}"
        " --curves {output.curves} > {log} 2>&1"


# A metric of another package has its own jobs and tables. When its source changes, only they are made again.
rule foreign_metric:
    input:
        images=inputs.explained_images,
        model=inputs.model_files,
        attributions="results/{dataset}/attributions/{experiment}.parquet",
        responses=inputs.response_table,
    output:
        scores=piece("results/{dataset}/{shard}scores/{metric}/{experiment}.parquet"),
    log:
        "logs/foreign_metric/{dataset}/{shard}{metric}/{experiment}.log",
    benchmark:
        "benchmarks/foreign_metric/{dataset}/{shard}{metric}/{experiment}.tsv"
    conda:
        ENVIRONMENT
    resources:
        **parameters.needs("faithfulness"),
        gpu=parameters.gpus,
    params:
        model=inputs.model_folder,
        responses=inputs.response_arguments,
        settings=parameters.score_settings(),
        shard=parameters.shard,
        code=parameters.score_code,
    message:
        "{wildcards.metric} of {wildcards.dataset}: {wildcards.shard}{wildcards.experiment}"
    shell:
        "python -m fgg.faithfulness --model {params.model} --images {input.images}"
        " --attributions {input.attributions} {params.responses} --settings {params.settings:q}"
        " --shard {params.shard} --code {params.code} --output {output.scores} > {log} 2>&1"
