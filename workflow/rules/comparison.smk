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
        # The report shows pictures in their own size: as SVG they fit a screen.
        vectors=[
            report(
                f"results/figures/{{dataset}}_{figure}.svg",
                caption=f"../report/{figure}.rst",
                category="Figures",
                subcategory="{dataset}",
                labels={"figure": FIGURES[figure], "dataset": "{dataset}"},
            )
            for figure in FIGURES
        ],
        pictures=[f"results/figures/{{dataset}}_{figure}.png" for figure in FIGURES],
    log:
        "logs/figures/{dataset}.log",
    conda:
        "../../envs/fgg.yaml"
    resources:
        **needs("figures"),
    params:
        seed=config["seed"],
        code=code("fgg.report.figures.__main__"),
    message:
        "Figures of {wildcards.dataset}"
    shell:
        "python -m fgg.report.figures --comparison {input.table} --hypotheses {input.hypotheses}"
        " --results results --images {input.images} --model data/models/{wildcards.dataset}"
        " --saes data/saes/{wildcards.dataset} --seed {params.seed} --dataset {wildcards.dataset}"
        " --output results/figures > {log} 2>&1"


rule sanity:
    input:
        attributions=checked_attributions,
    output:
        table="results/sanity.csv",
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


rule readme:
    input:
        table="results/comparison.parquet",
        hypotheses="results/hypotheses.csv",
        models=expand("data/models/{dataset}/model.json", dataset=DATASETS),
        data=expand("data/prepared/{dataset}/dataset.json", dataset=DATASETS),
        saes=all_sae_measures,
    output:
        text="results/README.md",
    log:
        "logs/readme.log",
    conda:
        "../../envs/fgg.yaml"
    resources:
        **needs("readme"),
    params:
        splits=as_json({name: SETTINGS[name]["split"] for name in DATASETS}),
        code=code("fgg.report.results_readme"),
    message:
        "Writing the results in words"
    shell:
        "python -m fgg.report.results_readme --comparison {input.table} --hypotheses {input.hypotheses}"
        " --data data --splits {params.splits:q} --output {output.text} > {log} 2>&1"


rule pages:
    input:
        table="results/comparison.parquet",
        hypotheses="results/hypotheses.csv",
        readme="results/README.md",
        extra=extra_tables,
        cases=case_studies,
    output:
        pages=[
            report(
                f"results/{name}.html",
                caption="../report/page.rst",
                category=PAGES[name][0],
                labels={"page": PAGES[name][1]},
            )
            for name in report_pages()
        ],
    log:
        "logs/pages.log",
    conda:
        "../../envs/fgg.yaml"
    resources:
        **needs("pages"),
    params:
        names=report_pages(),
        configuration=whole_configuration,
        code=code("fgg.report.pages"),
    message:
        "Writing the pages of the report"
    shell:
        "python -m fgg.report.pages --results results --pages {params.names} --cases {input.cases}"
        " --configuration {params.configuration:q} --output results > {log} 2>&1"


# The table to read comes last: when it is there, everything else is.
rule summary:
    input:
        table="results/comparison.parquet",
        figures=expand("results/figures/{dataset}_hypotheses.png", dataset=DATASETS),
        extra=extra_tables,
        cases=case_studies,
        readme="results/README.md",
        pages=[f"results/{name}.html" for name in report_pages()],
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
        **needs("summary"),
    params:
        code=code("fgg.comparison.summary"),
    message:
        "Writing {output}"
    shell:
        "python -m fgg.comparison.summary --comparison {input.table} --output {output} > {log} 2>&1"
