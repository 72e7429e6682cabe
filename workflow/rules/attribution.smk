rule attribution:
    input:
        images=explained_images,
        model="data/models/{dataset}/model.safetensors",
        record="data/models/{dataset}/model.json",
    output:
        relevance=piece("results/{dataset}/{shard}attributions/{experiment}.parquet"),
    log:
        "logs/attribution/{dataset}/{shard}{experiment}.log",
    benchmark:
        "benchmarks/attribution/{dataset}/{shard}{experiment}.tsv"
    wildcard_constraints:
        experiment=one_of("baseline"),
    conda:
        "../../envs/fgg.yaml"
    resources:
        **needs("attribution"),
        gpu=gpus,
    params:
        experiment=experiment,
        settings=settings(*RUN_KEYS, "max_images"),
        shard=shard,
        code=code("fgg.attribution.__main__"),
    message:
        "Attributions of {wildcards.dataset}: {wildcards.shard}{wildcards.experiment}"
    shell:
        "python -m fgg.attribution --model data/models/{wildcards.dataset} --images {input.images}"
        " --experiment {params.experiment:q} --settings {params.settings:q}"
        " --shard {params.shard} --relevance {output.relevance} > {log} 2>&1"


rule gated_attribution:
    input:
        images=explained_images,
        model="data/models/{dataset}/model.safetensors",
        record="data/models/{dataset}/model.json",
        saes=gate_saes,
    output:
        relevance=piece("results/{dataset}/{shard}attributions/{experiment}.parquet"),
        gates=piece("results/{dataset}/{shard}gates/{experiment}.parquet"),
    log:
        "logs/attribution/{dataset}/{shard}{experiment}.log",
    benchmark:
        "benchmarks/attribution/{dataset}/{shard}{experiment}.tsv"
    wildcard_constraints:
        experiment=one_of("gated"),
    conda:
        "../../envs/fgg.yaml"
    resources:
        **needs("gated_attribution"),
        gpu=gpus,
    params:
        experiment=experiment,
        saes=sae_arguments,
        settings=settings(*RUN_KEYS, "max_images"),
        shard=shard,
        code=code("fgg.attribution.__main__"),
    message:
        "Attributions of {wildcards.dataset}: {wildcards.shard}{wildcards.experiment}"
    shell:
        "python -m fgg.attribution --model data/models/{wildcards.dataset} --images {input.images} {params.saes}"
        " --experiment {params.experiment:q} --settings {params.settings:q}"
        " --shard {params.shard} --relevance {output.relevance} --gates {output.gates} > {log} 2>&1"


rule sharpened_attribution:
    input:
        vanilla="results/{dataset}/attributions/transmm.parquet",
        gated="results/{dataset}/attributions/{gated}.parquet",
    output:
        relevance="results/{dataset}/attributions/{gated}-sharpened.parquet",
    log:
        "logs/attribution/{dataset}/{gated}-sharpened.log",
    wildcard_constraints:
        gated=one_of("gated"),
    conda:
        "../../envs/fgg.yaml"
    resources:
        **needs("sharpened_attribution"),
    params:
        experiment=sharpened_experiment,
        code=code("fgg.attribution.sharpened"),
    message:
        "Attributions of {wildcards.dataset}: {wildcards.gated}-sharpened"
    shell:
        "python -m fgg.attribution.sharpened --vanilla {input.vanilla} --gated {input.gated}"
        " --settings {params.experiment:q} --relevance {output.relevance} > {log} 2>&1"


# Where images are divided into shards: their tables, put together in the order of the images.
rule merge:
    input:
        tables=expand(
            "results/{{place}}/shards/{number}-of-{count}/{{table}}.parquet",
            number=range(1, SHARDS + 1),
            count=SHARDS,
        ),
    output:
        table="results/{place}/{table}.parquet",
    log:
        "logs/merge/{place}/{table}.log",
    wildcard_constraints:
        place=divided_places(),
        table="(attributions|faithfulness)/[^/]+|responses",
    conda:
        "../../envs/fgg.yaml"
    resources:
        **needs("merge"),
    params:
        code=code("fgg.jobs.merge"),
    message:
        "Merging the shards of {output.table}"
    shell:
        "python -m fgg.jobs.merge {input.tables} --output {output.table} > {log} 2>&1"


# Relevance and gates come from one job, and so they do here: nothing else may ask for the gates.
rule merge_gated:
    input:
        relevance=expand(
            "results/{{place}}/shards/{number}-of-{count}/attributions/{{experiment}}.parquet",
            number=range(1, SHARDS + 1),
            count=SHARDS,
        ),
        gates=expand(
            "results/{{place}}/shards/{number}-of-{count}/gates/{{experiment}}.parquet",
            number=range(1, SHARDS + 1),
            count=SHARDS,
        ),
    output:
        relevance="results/{place}/attributions/{experiment}.parquet",
        gates="results/{place}/gates/{experiment}.parquet",
    log:
        "logs/merge/{place}/gated/{experiment}.log",
    wildcard_constraints:
        place=divided_places(),
        experiment=one_of("gated"),
    conda:
        "../../envs/fgg.yaml"
    resources:
        **needs("merge"),
    params:
        code=code("fgg.jobs.merge"),
    message:
        "Merging the shards of {output.relevance} and of its gates"
    shell:
        "( python -m fgg.jobs.merge {input.relevance} --output {output.relevance}"
        " && python -m fgg.jobs.merge {input.gates} --output {output.gates} ) > {log} 2>&1"


ruleorder: merge_gated > sharpened_attribution > merge
