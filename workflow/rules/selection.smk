# The candidates of `select` on the validation split. These are the rules of the explained split with other images.
use rule attribution as validation_attribution with:
    input:
        images=inputs.validation_images,
        model=inputs.model_files,
        saes=inputs.gate_saes,
        maps=ancient(nameable(inputs.given_maps)),
        chosen=inputs.chosen_options,
    output:
        relevance=piece(
            "results/{dataset}/validation/{shard}attributions/{experiment}.parquet"
        ),
    log:
        "logs/validation/attribution/{dataset}/{shard}{experiment}.log",
    benchmark:
        "benchmarks/validation/attribution/{dataset}/{shard}{experiment}.tsv"
    params:
        model=inputs.model_folder,
        chosen=inputs.chosen_arguments,
        experiment=parameters.experiment,
        settings=parameters.settings_of(*EXPLAINED_KEYS, *RUN_KEYS, "select.max_images"),
        shard=parameters.shard,
        content=parameters.content(inputs.given_maps),
        code=parameters.attribution_code,


use rule gated_attribution as validation_gated_attribution with:
    input:
        images=inputs.validation_images,
        model=inputs.model_files,
        saes=inputs.gate_saes,
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
        model=inputs.model_folder,
        experiment=parameters.experiment,
        saes=parameters.sae_arguments,
        settings=parameters.settings_of(*EXPLAINED_KEYS, *RUN_KEYS, "select.max_images"),
        shard=parameters.shard,
        code=parameters.attribution_code,


use rule responses as validation_responses with:
    input:
        images=inputs.validation_images,
        model=inputs.model_files,
    output:
        responses=piece("results/{dataset}/validation/{shard}responses.parquet"),
    log:
        "logs/validation/responses/{shard}{dataset}.log",
    benchmark:
        "benchmarks/validation/responses/{shard}{dataset}.tsv"
    params:
        model=inputs.model_folder,
        settings=parameters.response_settings("select.max_images"),
        shard=parameters.shard,
        code=parameters.code("fgg.faithfulness.responses"),


use rule faithfulness as validation_faithfulness with:
    input:
        images=inputs.validation_images,
        model=inputs.model_files,
        attributions="results/{dataset}/validation/attributions/{experiment}.parquet",
        responses=inputs.validation_responses,
    output:
        faithfulness=piece(
            "results/{dataset}/validation/{shard}faithfulness/{experiment}.parquet"
        ),
        curves=piece("results/{dataset}/validation/{shard}curves/{experiment}.parquet"),
    log:
        "logs/validation/faithfulness/{dataset}/{shard}{experiment}.log",
    benchmark:
        "benchmarks/validation/faithfulness/{dataset}/{shard}{experiment}.tsv"
    params:
        model=inputs.model_folder,
        responses=inputs.validation_response_arguments,
        settings=parameters.score_settings("select.max_images"),
        shard=parameters.shard,
        code=parameters.score_code,


use rule foreign_metric as validation_foreign_metric with:
    input:
        images=inputs.validation_images,
        model=inputs.model_files,
        attributions="results/{dataset}/validation/attributions/{experiment}.parquet",
        responses=inputs.validation_responses,
    output:
        scores=piece(
            "results/{dataset}/validation/{shard}scores/{metric}/{experiment}.parquet"
        ),
    log:
        "logs/validation/foreign_metric/{dataset}/{shard}{metric}/{experiment}.log",
    benchmark:
        "benchmarks/validation/foreign_metric/{dataset}/{shard}{metric}/{experiment}.tsv"
    params:
        model=inputs.model_folder,
        responses=inputs.validation_response_arguments,
        settings=parameters.score_settings("select.max_images"),
        shard=parameters.shard,
        code=parameters.score_code,


rule selection:
    input:
        explained=inputs.scores,
        validation=inputs.candidate_scores,
        images=inputs.selection_images,
    output:
        choice="results/selection.csv",
        ranking="results/selection_ranking.csv",
    log:
        "logs/selection.log",
    conda:
        ENVIRONMENT
    resources:
        **parameters.needs("selection"),
    params:
        experiments=parameters.grids(),
        settings=parameters.selection_settings(),
        code=parameters.code("fgg.comparison.selection"),
    message:
        "Choosing on the validation split"
    shell:
        "python -m fgg.comparison.selection --experiments {params.experiments:q} --settings {params.settings:q}"
        " --results results --output {output.choice} --ranking {output.ranking} > {log} 2>&1"
