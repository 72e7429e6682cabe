rule responses:
    input:
        images=explained_images,
        model="data/models/{dataset}/model.safetensors",
        record="data/models/{dataset}/model.json",
    output:
        responses="results/{dataset}/responses.parquet",
    log:
        "logs/responses/{dataset}.log",
    benchmark:
        "benchmarks/responses/{dataset}.tsv"
    conda:
        "../../envs/fgg.yaml"
    resources:
        gpu=gpus,
    params:
        settings=settings(*RESPONSE_KEYS, "max_images"),
        code=code("fgg.faithfulness.responses"),
    message:
        "The model's answers to random patch subsets of {wildcards.dataset}"
    shell:
        "python -m fgg.faithfulness.responses --model data/models/{wildcards.dataset} --images {input.images}"
        " --settings {params.settings:q} --output {output.responses} > {log} 2>&1"


rule faithfulness:
    input:
        images=explained_images,
        model="data/models/{dataset}/model.safetensors",
        record="data/models/{dataset}/model.json",
        attributions="results/{dataset}/attributions/{experiment}.parquet",
        responses="results/{dataset}/responses.parquet",
    output:
        faithfulness="results/{dataset}/faithfulness/{experiment}.parquet",
    log:
        "logs/faithfulness/{dataset}/{experiment}.log",
    benchmark:
        "benchmarks/faithfulness/{dataset}/{experiment}.tsv"
    conda:
        "../../envs/fgg.yaml"
    resources:
        gpu=gpus,
    params:
        settings=settings(*SCORE_KEYS, "max_images"),
        code=code("fgg.faithfulness.__main__"),
    message:
        "Faithfulness of {wildcards.dataset}: {wildcards.experiment}"
    shell:
        "python -m fgg.faithfulness --model data/models/{wildcards.dataset} --images {input.images}"
        " --attributions {input.attributions} --responses {input.responses}"
        " --settings {params.settings:q} --output {output.faithfulness} > {log} 2>&1"
