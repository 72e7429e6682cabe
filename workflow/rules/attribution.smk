rule attribution:
    input:
        images=explained_images,
        model="data/models/{dataset}/model.safetensors",
        record="data/models/{dataset}/model.json",
    output:
        relevance="results/{dataset}/attributions/{experiment}.parquet",
    log:
        "logs/attribution/{dataset}/{experiment}.log",
    benchmark:
        "benchmarks/attribution/{dataset}/{experiment}.tsv"
    wildcard_constraints:
        experiment=one_of("baseline"),
    conda:
        "../../envs/fgg.yaml"
    resources:
        gpu=gpus,
    params:
        experiment=experiment,
        settings=settings(*RUN_KEYS, "max_images"),
        code=code("fgg.attribution.__main__"),
    message:
        "Attributions of {wildcards.dataset}: {wildcards.experiment}"
    shell:
        "python -m fgg.attribution --model data/models/{wildcards.dataset} --images {input.images}"
        " --experiment {params.experiment:q} --settings {params.settings:q}"
        " --relevance {output.relevance} > {log} 2>&1"


rule gated_attribution:
    input:
        images=explained_images,
        model="data/models/{dataset}/model.safetensors",
        record="data/models/{dataset}/model.json",
        saes=gate_saes,
    output:
        relevance="results/{dataset}/attributions/{experiment}.parquet",
        gates="results/{dataset}/gates/{experiment}.parquet",
    log:
        "logs/attribution/{dataset}/{experiment}.log",
    benchmark:
        "benchmarks/attribution/{dataset}/{experiment}.tsv"
    wildcard_constraints:
        experiment=one_of("gated"),
    conda:
        "../../envs/fgg.yaml"
    resources:
        gpu=gpus,
    params:
        experiment=experiment,
        saes=sae_arguments,
        settings=settings(*RUN_KEYS, "max_images"),
        code=code("fgg.attribution.__main__"),
    message:
        "Attributions of {wildcards.dataset}: {wildcards.experiment}"
    shell:
        "python -m fgg.attribution --model data/models/{wildcards.dataset} --images {input.images} {params.saes}"
        " --experiment {params.experiment:q} --settings {params.settings:q}"
        " --relevance {output.relevance} --gates {output.gates} > {log} 2>&1"


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
    params:
        experiment=sharpened_experiment,
        code=code("fgg.attribution.sharpened"),
    message:
        "Attributions of {wildcards.dataset}: {wildcards.gated}-sharpened"
    shell:
        "python -m fgg.attribution.sharpened --vanilla {input.vanilla} --gated {input.gated}"
        " --settings {params.experiment:q} --relevance {output.relevance} > {log} 2>&1"
