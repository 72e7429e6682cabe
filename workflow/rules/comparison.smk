rule comparison:
    input:
        faithfulness=inputs.scores,
        images=inputs.image_tables,
        attributions=inputs.all_maps,
        records=inputs.records,
        saes=inputs.all_sae_measures,
        controls=inputs.dictionary_measures,
    output:
        table="results/comparison.parquet",
        csv="results/comparison.csv",
        hypotheses="results/hypotheses.csv",
        decomposition="results/decomposition.csv",
        agreement="results/agreement.csv",
        methods="results/methods.csv",
        judged="results/judged.csv",
        saes="results/sae_quality.csv",
    log:
        "logs/comparison.log",
    conda:
        ENVIRONMENT
    resources:
        **parameters.needs("comparison"),
    params:
        settings=parameters.comparison_settings(),
        code=parameters.code("fgg.comparison.__main__"),
    message:
        f"Comparing all experiments with {doubled_braces(config['baseline'])}"
    shell:
        "python -m fgg.comparison --settings {params.settings:q} --results results --data data"
        " --output results > {log} 2>&1"


# The statistics of the research code, for comparison with published numbers; made under `protocol: thesis` only.
rule thesis_statistics:
    input:
        faithfulness=inputs.scores,
        images=inputs.image_tables,
    output:
        table="results/thesis_statistics.csv",
    log:
        "logs/thesis_statistics.log",
    conda:
        ENVIRONMENT
    resources:
        **parameters.needs("comparison"),
    params:
        settings=parameters.comparison_settings(),
        code=parameters.code("fgg.comparison.thesis"),
    message:
        "Statistics as in the research code"
    shell:
        "python -m fgg.comparison.thesis --settings {params.settings:q} --results results"
        " --output {output.table} > {log} 2>&1"


rule pooled:
    input:
        table="results/comparison.parquet",
        hypotheses="results/hypotheses.csv",
    output:
        table="results/pooled.csv",
    log:
        "logs/pooled.log",
    conda:
        ENVIRONMENT
    resources:
        **parameters.needs("sanity"),
    params:
        code=parameters.code("fgg.comparison.pooled"),
    message:
        "Pooling seeds and datasets"
    shell:
        "python -m fgg.comparison.pooled --comparison {input.table} --hypotheses {input.hypotheses}"
        " --output {output.table} > {log} 2>&1"


rule sanity:
    input:
        attributions=inputs.checked_attributions,
    output:
        table="results/sanity.csv",
    log:
        "logs/sanity.log",
    conda:
        ENVIRONMENT
    resources:
        **parameters.needs("sanity"),
    params:
        experiments=parameters.grids(),
        code=parameters.code("fgg.comparison.sanity"),
    message:
        "Comparing maps before and after randomisation"
    shell:
        "python -m fgg.comparison.sanity --experiments {params.experiments:q} --results results"
        " --output {output.table} > {log} 2>&1"


# The summary is made last: when it exists, everything else exists too.
rule summary:
    input:
        table="results/comparison.parquet",
        record="results/manifest.json",  # of all other results
    output:
        report(
            "results/summary.csv",
            caption="../report/summary.rst",
            category="Tables",
            labels={"page": "Summary, as a CSV file"},
        ),
    log:
        "logs/summary.log",
    conda:
        ENVIRONMENT
    resources:
        **parameters.needs("summary"),
    params:
        code=parameters.code("fgg.comparison.summary"),
    message:
        "Writing {output}"
    shell:
        "python -m fgg.comparison.summary --comparison {input.table} --output {output} > {log} 2>&1"
