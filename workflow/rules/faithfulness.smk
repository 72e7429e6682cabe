rule responses:
    input:
        images=explained_images,
        model="data/models/{dataset}/model.safetensors",
        record="data/models/{dataset}/model.json",
    output:
        responses=piece("results/{dataset}/{shard}responses.parquet"),
    log:
        "logs/responses/{shard}{dataset}.log",
    benchmark:
        "benchmarks/responses/{shard}{dataset}.tsv"
    conda:
        "../../envs/fgg.yaml"
    resources:
        **needs("responses"),
        gpu=gpus,
    params:
        settings=settings(*RESPONSE_KEYS, "max_images"),
        shard=shard,
        code=code("fgg.faithfulness.responses"),
    message:
        "The model's answers to random patch subsets of {wildcards.dataset} {wildcards.shard}"
    shell:
        "python -m fgg.faithfulness.responses --model data/models/{wildcards.dataset} --images {input.images}"
        " --settings {params.settings:q} --shard {params.shard} --output {output.responses} > {log} 2>&1"


rule faithfulness:
    input:
        images=explained_images,
        model="data/models/{dataset}/model.safetensors",
        record="data/models/{dataset}/model.json",
        attributions="results/{dataset}/attributions/{experiment}.parquet",
        responses="results/{dataset}/responses.parquet",
    output:
        faithfulness=piece("results/{dataset}/{shard}faithfulness/{experiment}.parquet"),
    log:
        "logs/faithfulness/{dataset}/{shard}{experiment}.log",
    benchmark:
        "benchmarks/faithfulness/{dataset}/{shard}{experiment}.tsv"
    conda:
        "../../envs/fgg.yaml"
    resources:
        **needs("faithfulness"),
        gpu=gpus,
    params:
        settings=settings(*SCORE_KEYS, "max_images"),
        shard=shard,
        code=code("fgg.faithfulness.__main__"),
    message:
        "Faithfulness of {wildcards.dataset}: {wildcards.shard}{wildcards.experiment}"
    shell:
        "python -m fgg.faithfulness --model data/models/{wildcards.dataset} --images {input.images}"
        " --attributions {input.attributions} --responses {input.responses}"
        " --settings {params.settings:q} --shard {params.shard} --output {output.faithfulness} > {log} 2>&1"
