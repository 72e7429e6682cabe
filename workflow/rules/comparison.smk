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
        attributions=maps_of_dataset,
        gates=gates_of_dataset,
        responses="results/{dataset}/responses.parquet",
        images=explained_images,
        model="data/models/{dataset}/model.json",
        saes=sae_measures,
    output:
        pictures=[
            report(
                f"results/figures/{{dataset}}_{figure}.png",
                caption=f"../report/{figure}.rst",
                category="Figures",
                subcategory="{dataset}",
                labels={"figure": FIGURES[figure], "dataset": "{dataset}"},
            )
            for figure in FIGURES
        ],
        vectors=[f"results/figures/{{dataset}}_{figure}.svg" for figure in FIGURES],
    log:
        "logs/figures/{dataset}.log",
    conda:
        "../../envs/fgg.yaml"
    resources:
        **needs("figures"),
    params:
        seed=config["seed"],
        code=code("fgg.comparison.figures"),
    message:
        "Figures of {wildcards.dataset}"
    shell:
        "python -m fgg.comparison.figures --comparison {input.table} --hypotheses {input.hypotheses}"
        " --results results --images {input.images} --model data/models/{wildcards.dataset}"
        " --saes data/saes/{wildcards.dataset} --seed {params.seed} --dataset {wildcards.dataset}"
        " --output results/figures > {log} 2>&1"


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
