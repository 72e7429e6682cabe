rule comparison:
    input:
        faithfulness=inputs.scores,
        images=inputs.image_tables,
        attributions=inputs.all_maps,
        models=expand("data/models/{dataset}/model.json", dataset=study.datasets),
        data=expand("data/prepared/{dataset}/dataset.json", dataset=study.datasets),
        saes=inputs.all_sae_measures,
    output:
        table="results/comparison.parquet",
        csv="results/comparison.csv",
        hypotheses="results/hypotheses.csv",
        decomposition="results/decomposition.csv",
        agreement="results/agreement.csv",
    log:
        "logs/comparison.log",
    conda:
        "../../envs/fgg.yaml"
    resources:
        **study.needs("comparison"),
    params:
        settings=study.comparison_settings(),
        code=study.code("fgg.comparison.__main__"),
    message:
        "Comparing all experiments with {config[baseline]}"
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
        "../../envs/fgg.yaml"
    resources:
        **study.needs("comparison"),
    params:
        settings=study.comparison_settings(),
        code=study.code("fgg.comparison.thesis"),
    message:
        "Statistics as in the research code"
    shell:
        "python -m fgg.comparison.thesis --settings {params.settings:q} --results results"
        " --output {output.table} > {log} 2>&1"


rule sanity:
    input:
        attributions=inputs.checked_attributions,
    output:
        table="results/sanity.csv",
    log:
        "logs/sanity.log",
    conda:
        "../../envs/fgg.yaml"
    resources:
        **study.needs("sanity"),
    params:
        experiments=study.grids(),
        code=study.code("fgg.comparison.sanity"),
    message:
        "Comparing maps before and after randomisation"
    shell:
        "python -m fgg.comparison.sanity --experiments {params.experiments:q} --results results"
        " --output {output.table} > {log} 2>&1"


# The summary is made last: when it exists, everything else exists too.
rule summary:
    input:
        table="results/comparison.parquet",
        figures=expand(
            "results/figures/{dataset}_hypotheses.png", dataset=study.datasets
        ),
        extra=inputs.extra_tables,
        cases=inputs.case_studies,
        readme="results/README.md",
        pages=[f"results/{name}.html" for name in inputs.pages()],
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
        "../../envs/fgg.yaml"
    resources:
        **study.needs("summary"),
    params:
        code=study.code("fgg.comparison.summary"),
    message:
        "Writing {output}"
    shell:
        "python -m fgg.comparison.summary --comparison {input.table} --output {output} > {log} 2>&1"
