rule comparison:
    input:
        faithfulness=scores,
        models=expand("data/models/{dataset}/model.json", dataset=DATASETS),
        data=expand("data/prepared/{dataset}/dataset.json", dataset=DATASETS),
    output:
        table="results/comparison.parquet",
        csv="results/comparison.csv",
        hypotheses="results/hypotheses.csv",
    log:
        "logs/comparison.log",
    conda:
        "../../envs/fgg.yaml"
    resources:
        **needs("comparison"),
    params:
        datasets=as_json(DATASETS),
        settings=comparison_settings(),
        code=code("fgg.comparison.__main__"),
    message:
        "Comparing all experiments with {config[baseline]}"
    shell:
        "python -m fgg.comparison --datasets {params.datasets:q} --settings {params.settings:q}"
        " --results results --models data/models --data data/prepared --output results > {log} 2>&1"


rule figures:
    input:
        table="results/comparison.parquet",
        hypotheses="results/hypotheses.csv",
        faithfulness=scores_of_dataset,
    output:
        metrics=[
            report(
                f"results/figures/{{dataset}}_{metric}.png",
                caption=f"../report/{metric}.rst",
                category="Figures",
                subcategory="{dataset}",
                labels={"dataset": "{dataset}", "figure": METRICS[metric].title},
            )
            for metric in METRICS
        ],
        curves=report(
            "results/figures/{dataset}_pixel_flipping_curves.png",
            caption="../report/curves.rst",
            category="Figures",
            subcategory="{dataset}",
            labels={"dataset": "{dataset}", "figure": "Pixel Flipping curves"},
        ),
        hypotheses=report(
            "results/figures/{dataset}_hypotheses.png",
            caption="../report/hypotheses.rst",
            category="Figures",
            subcategory="{dataset}",
            labels={"dataset": "{dataset}", "figure": "Hypotheses"},
        ),
        vectors=expand(
            "results/figures/{{dataset}}_{figure}.svg",
            figure=[*METRICS, "pixel_flipping_curves", "hypotheses"],
        ),
    log:
        "logs/figures/{dataset}.log",
    conda:
        "../../envs/fgg.yaml"
    resources:
        **needs("figures"),
    params:
        code=code("fgg.comparison.figures"),
    message:
        "Figures of {wildcards.dataset}"
    shell:
        "python -m fgg.comparison.figures --comparison {input.table} --hypotheses {input.hypotheses}"
        " --results results --dataset {wildcards.dataset} --output results/figures > {log} 2>&1"


rule sanity:
    input:
        attributions=checked_attributions,
    output:
        table=report(
            "results/sanity.csv",
            caption="../report/sanity.rst",
            category="Tables",
            labels={"table": "Sanity checks"},
        ),
    log:
        "logs/sanity.log",
    conda:
        "../../envs/fgg.yaml"
    resources:
        **needs("sanity"),
    params:
        experiments=grid_in_order(),
        code=code("fgg.comparison.sanity"),
    message:
        "Comparing maps before and after randomisation"
    shell:
        "python -m fgg.comparison.sanity --experiments {params.experiments:q} --results results"
        " --output {output.table} > {log} 2>&1"


# The table to read comes last: when it is there, everything else is.
rule summary:
    input:
        table="results/comparison.parquet",
        figures=expand("results/figures/{dataset}_hypotheses.png", dataset=DATASETS),
        extra=extra_tables,
        cases=case_studies,
    output:
        report(
            "results/summary.csv",
            caption="../report/summary.rst",
            category="Tables",
            labels={"table": "Summary"},
        ),
    log:
        "logs/summary.log",
    conda:
        "../../envs/fgg.yaml"
    resources:
        **needs("summary"),
    params:
        code=code("fgg.comparison.summary"),
    message:
        "Writing {output}"
    shell:
        "python -m fgg.comparison.summary --comparison {input.table} --output {output} > {log} 2>&1"
