# The candidates of `select` on the validation split: the rules of the explained split, on other images.
use rule attribution as validation_attribution with:
    input:
        images="data/prepared/{dataset}/val.parquet",
        model="data/models/{dataset}/model.safetensors",
        record="data/models/{dataset}/model.json",
    output:
        relevance=piece(
            "results/{dataset}/validation/{shard}attributions/{experiment}.parquet"
        ),
    log:
        "logs/validation/attribution/{dataset}/{shard}{experiment}.log",
    benchmark:
        "benchmarks/validation/attribution/{dataset}/{shard}{experiment}.tsv"
    params:
        experiment=experiment,
        settings=settings(*RUN_KEYS, "select.max_images"),
        shard=shard,
        code=code("fgg.attribution.__main__"),


use rule gated_attribution as validation_gated_attribution with:
    input:
        images="data/prepared/{dataset}/val.parquet",
        model="data/models/{dataset}/model.safetensors",
        record="data/models/{dataset}/model.json",
        saes=gate_saes,
    output:
        relevance=piece(
            "results/{dataset}/validation/{shard}attributions/{experiment}.parquet"
        ),
        gates=piece("results/{dataset}/validation/{shard}gates/{experiment}.parquet"),
    log:
        "logs/validation/attribution/{dataset}/{shard}{experiment}.log",
    benchmark:
        "benchmarks/validation/attribution/{dataset}/{shard}{experiment}.tsv"
    params:
        experiment=experiment,
        saes=sae_arguments,
        settings=settings(*RUN_KEYS, "select.max_images"),
        shard=shard,
        code=code("fgg.attribution.__main__"),


use rule responses as validation_responses with:
    input:
        images="data/prepared/{dataset}/val.parquet",
        model="data/models/{dataset}/model.safetensors",
        record="data/models/{dataset}/model.json",
    output:
        responses=piece("results/{dataset}/validation/{shard}responses.parquet"),
    log:
        "logs/validation/responses/{shard}{dataset}.log",
    benchmark:
        "benchmarks/validation/responses/{shard}{dataset}.tsv"
    params:
        settings=settings(*RESPONSE_KEYS, "select.max_images"),
        shard=shard,
        code=code("fgg.faithfulness.responses"),


use rule faithfulness as validation_faithfulness with:
    input:
        images="data/prepared/{dataset}/val.parquet",
        model="data/models/{dataset}/model.safetensors",
        record="data/models/{dataset}/model.json",
        attributions="results/{dataset}/validation/attributions/{experiment}.parquet",
        responses="results/{dataset}/validation/responses.parquet",
    output:
        faithfulness=piece(
            "results/{dataset}/validation/{shard}faithfulness/{experiment}.parquet"
        ),
    log:
        "logs/validation/faithfulness/{dataset}/{shard}{experiment}.log",
    benchmark:
        "benchmarks/validation/faithfulness/{dataset}/{shard}{experiment}.tsv"
    params:
        settings=settings(*SCORE_KEYS, "select.max_images"),
        shard=shard,
        code=code("fgg.faithfulness.__main__"),


rule selection:
    input:
        explained=scores,
        validation=candidate_scores,
    output:
        choice="results/selection.csv",
        ranking="results/selection_ranking.csv",
    log:
        "logs/selection.log",
    conda:
        "../../envs/fgg.yaml"
    resources:
        **needs("selection"),
    params:
        experiments=grid_in_order(),
        settings=as_json({key: config[key] for key in ("baseline", "seed")}),
        code=code("fgg.comparison.selection"),
    message:
        "Choosing on the validation split"
    shell:
        "python -m fgg.comparison.selection --experiments {params.experiments:q} --settings {params.settings:q}"
        " --results results --output {output.choice} --ranking {output.ranking} > {log} 2>&1"
