rule attribution:
    input:
        images=inputs.explained_images,
        model=inputs.model_files,
        saes=inputs.gate_saes,
        maps=ancient(nameable(inputs.given_maps)),
        chosen=inputs.chosen_options,
    output:
        relevance=piece("results/{dataset}/{shard}attributions/{experiment}.parquet"),
    log:
        "logs/attribution/{dataset}/{shard}{experiment}.log",
    benchmark:
        "benchmarks/attribution/{dataset}/{shard}{experiment}.tsv"
    wildcard_constraints:
        experiment=study.one_of("plain"),
    priority: 2  # maps before scores, so that the experiments are scored together
    conda:
        ENVIRONMENT
    resources:
        **parameters.needs("attribution"),
        gpu=parameters.gpus,
    params:
        model=inputs.model_folder,
        saes=parameters.sae_arguments,
        chosen=inputs.chosen_arguments,
        experiment=parameters.experiment,
        settings=parameters.settings_of(*EXPLAINED_KEYS, *RUN_KEYS, "max_images"),
        shard=parameters.shard,
        content=parameters.content(inputs.given_maps),
        code=parameters.attribution_code,
    message:
        "Attributions of {wildcards.dataset}: {wildcards.shard}{wildcards.experiment}"
    shell:
        "python -m fgg.attribution --model {params.model} --images {input.images} {params.saes} {params.chosen}"
        " --experiment {params.experiment:q} --settings {params.settings:q} --shard {params.shard}"
        " --code {params.code} --relevance {output.relevance} > {log} 2>&1"


rule option_choice:
    input:
        images=inputs.validation_images,
        model=inputs.model_files,
    output:
        chosen="results/{dataset}/options/{experiment}.json",
    log:
        "logs/option_choice/{dataset}/{experiment}.log",
    conda:
        ENVIRONMENT
    resources:
        **parameters.needs("attribution"),
        gpu=parameters.gpus,
    params:
        model=inputs.model_folder,
        experiment=parameters.experiment,
        settings=parameters.settings_of(
            "target", *RUN_KEYS, "select.max_images", "metrics.measurable.least_drop"
        ),
        code=parameters.choice_code,
    message:
        "Choosing an option of {wildcards.experiment} on the validation images of {wildcards.dataset}"
    shell:
        "python -m fgg.faithfulness.option_choice --model {params.model} --images {input.images}"
        " --experiment {params.experiment:q} --settings {params.settings:q} --output {output.chosen} > {log} 2>&1"


rule gated_attribution:
    input:
        images=inputs.explained_images,
        model=inputs.model_files,
        saes=inputs.gate_saes,
    output:
        relevance=piece("results/{dataset}/{shard}attributions/{experiment}.parquet"),
        gates=piece("results/{dataset}/{shard}gates/{experiment}.parquet"),
    log:
        "logs/attribution/{dataset}/{shard}{experiment}.log",
    benchmark:
        "benchmarks/attribution/{dataset}/{shard}{experiment}.tsv"
    wildcard_constraints:
        experiment=study.one_of("gated"),
    priority: 2  # maps before scores, so that the experiments are scored together
    conda:
        ENVIRONMENT
    resources:
        **parameters.needs("gated_attribution"),
        gpu=parameters.gpus,
    params:
        model=inputs.model_folder,
        saes=parameters.sae_arguments,
        experiment=parameters.experiment,
        settings=parameters.settings_of(*EXPLAINED_KEYS, *RUN_KEYS, "max_images"),
        shard=parameters.shard,
        code=parameters.attribution_code,
    message:
        "Attributions of {wildcards.dataset}: {wildcards.shard}{wildcards.experiment}"
    shell:
        "python -m fgg.attribution --model {params.model} --images {input.images} {params.saes}"
        " --experiment {params.experiment:q} --settings {params.settings:q} --shard {params.shard}"
        " --code {params.code} --relevance {output.relevance} --gates {output.gates} > {log} 2>&1"


# If the images are divided into shards, this rule merges the tables of the shards in the order of the images.
rule merge:
    input:
        tables=expand(
            "results/{{place}}/shards/{number}-of-{count}/{{table}}.parquet",
            number=range(1, study.shards + 1),
            count=study.shards,
        ),
    output:
        table="results/{place}/{table}.parquet",
    log:
        "logs/merge/{place}/{table}.log",
    wildcard_constraints:
        place=study.divided_places(),
        table="(attributions|faithfulness|curves|scores/[^/]+)/[^/]+|responses",
    conda:
        ENVIRONMENT
    resources:
        **parameters.needs("merge"),
    params:
        code=parameters.code("fgg.jobs.merge"),
    message:
        "Merging the shards of {output.table}"
    shell:
        "python -m fgg.jobs.merge {input.tables} --output {output.table} > {log} 2>&1"


# One job makes relevance and gates, so one job merges both. The gates may not be requested by any other job.
rule merge_gated:
    input:
        relevance=expand(
            "results/{{place}}/shards/{number}-of-{count}/attributions/{{experiment}}.parquet",
            number=range(1, study.shards + 1),
            count=study.shards,
        ),
        gates=expand(
            "results/{{place}}/shards/{number}-of-{count}/gates/{{experiment}}.parquet",
            number=range(1, study.shards + 1),
            count=study.shards,
        ),
    output:
        relevance="results/{place}/attributions/{experiment}.parquet",
        gates="results/{place}/gates/{experiment}.parquet",
    log:
        "logs/merge/{place}/gated/{experiment}.log",
    wildcard_constraints:
        place=study.divided_places(),
        experiment=study.one_of("gated"),
    conda:
        ENVIRONMENT
    resources:
        **parameters.needs("merge"),
    params:
        code=parameters.code("fgg.jobs.merge"),
    message:
        "Merging the shards of {output.relevance} and of its gates"
    shell:
        "( python -m fgg.jobs.merge {input.relevance} --output {output.relevance}"
        " && python -m fgg.jobs.merge {input.gates} --output {output.gates} ) > {log} 2>&1"


ruleorder: merge_gated > merge
