rule figures:
    input:
        table="results/comparison.parquet",
        hypotheses="results/hypotheses.csv",
        faithfulness=inputs.scores_of_dataset,
        attributions=inputs.maps_of_dataset,
        gates=inputs.gates_of_dataset,
        responses=inputs.responses_of_dataset,
        measurable="results/{dataset}/images.parquet",
        curves=inputs.curves_of_dataset,
        images=inputs.explained_images,
        model=inputs.model_files,
        saes=inputs.sae_measures,
        deletion=inputs.deletion_summary,
        sweep=inputs.sweep_tables,
        pooled=inputs.pooled_table,
        quality="results/sae_quality.csv",
    output:
        # The report shows pictures in their original size. SVG files fit the screen.
        vectors=[
            report(
                f"results/figures/{{dataset}}_{figure}.svg",
                caption=f"../report/{inputs.caption(figure)}.rst",
                category="Figures",
                subcategory="{dataset}",
                labels={"figure": title, "dataset": "{dataset}"},
            )
            for figure, title in inputs.figures().items()
        ],
        pictures=[
            f"results/figures/{{dataset}}_{figure}.png" for figure in inputs.figures()
        ],
    log:
        "logs/figures/{dataset}.log",
    conda:
        ENVIRONMENT
    resources:
        **parameters.needs("figures"),
    params:
        model=inputs.model_folder,
        seed=parameters.seed,
        deletion=inputs.deletion_arguments,
        sweep=inputs.sweep_arguments,
        pooled=inputs.pooled_arguments,
        names=list(inputs.figures()),
        metrics=inputs.metrics_in_words,
        code=parameters.code("fgg.report.figures.__main__"),
    message:
        "Figures of {wildcards.dataset}"
    shell:
        "python -m fgg.report.figures --comparison {input.table} --hypotheses {input.hypotheses}"
        " --results results --images {input.images} --model {params.model}"
        " --saes data/saes/{wildcards.dataset} --seed {params.seed} --dataset {wildcards.dataset}"
        " --figures {params.names} {params.deletion} {params.sweep} {params.pooled} --quality {input.quality}"
        " --output results/figures > {log} 2>&1"


rule readme:
    input:
        table="results/comparison.parquet",
        hypotheses="results/hypotheses.csv",
        decomposition="results/decomposition.csv",
        pooled=inputs.pooled_table,
        records=inputs.records,
        saes=inputs.all_sae_measures,
        deletion=inputs.deletion_summary,
    output:
        text="results/README.md",
    log:
        "logs/readme.log",
    conda:
        ENVIRONMENT
    resources:
        **parameters.needs("readme"),
    params:
        splits=parameters.splits(),
        pooled=inputs.pooled_arguments,
        deletion=inputs.deletion_arguments,
        code=parameters.code("fgg.report.results_readme"),
    message:
        "Writing the results in words"
    shell:
        "python -m fgg.report.results_readme --comparison {input.table} --hypotheses {input.hypotheses}"
        " --decomposition {input.decomposition} {params.pooled} {params.deletion}"
        " --data data --splits {params.splits:q} --output {output.text} > {log} 2>&1"


rule pages:
    input:
        table="results/comparison.parquet",
        hypotheses="results/hypotheses.csv",
        readme="results/README.md",
        extra=inputs.extra_tables,
        cases=inputs.case_studies,
    output:
        pages=[
            report(
                f"results/{name}.html",
                caption="../report/page.rst",
                category=category,
                labels={"page": title},
            )
            for name, (category, title) in inputs.pages().items()
        ],
    log:
        "logs/pages.log",
    conda:
        ENVIRONMENT
    resources:
        **parameters.needs("pages"),
    params:
        names=list(inputs.pages()),
        configuration=parameters.whole_configuration,
        code=parameters.page_code,
    message:
        "Writing the pages of the report"
    shell:
        "python -m fgg.report.pages --results results --pages {params.names} --cases {input.cases}"
        " --configuration {params.configuration:q} --output results > {log} 2>&1"


rule report_page:
    input:
        table="results/comparison.parquet",
        hypotheses="results/hypotheses.csv",
        agreement="results/agreement.csv",
        saes="results/sae_quality.csv",
        extra=inputs.extra_tables,
        figures=expand("results/figures/{dataset}_hypotheses.svg", dataset=study.shown),
        cases=inputs.case_studies,
        features=inputs.feature_pages,
    output:
        page=report(
            "results/report.html",
            caption="../report/page.rst",
            category="Headline",
            labels={"page": "Report in one page"},
        ),
    log:
        "logs/report_page.log",
    conda:
        ENVIRONMENT
    resources:
        **parameters.needs("report_page"),
    params:
        pages=list(inputs.pages()),
        datasets=list(study.shown),
        figures=list(inputs.figures()),
        configuration=parameters.whole_configuration,
        code=parameters.report_page_code,
    message:
        "Writing {output}"
    shell:
        "python -m fgg.report.report_page --results results --pages {params.pages} --datasets {params.datasets}"
        " --figures {params.figures} --cases {input.cases} --configuration {params.configuration:q}"
        " --output {output.page} > {log} 2>&1"


rule manifest:
    input:
        table="results/comparison.parquet",
        figures=expand("results/figures/{dataset}_hypotheses.png", dataset=study.shown),
        extra=inputs.extra_tables,
        cases=inputs.case_studies,
        features=inputs.feature_pages,
        readme="results/README.md",
        pages=[f"results/{name}.html" for name in (*inputs.pages(), "report")],
    output:
        record="results/manifest.json",
    log:
        "logs/manifest.log",
    conda:
        ENVIRONMENT
    resources:
        **parameters.needs("manifest"),
    params:
        configuration=parameters.whole_configuration,
        inputs=parameters.user_files(
            {
                "images": inputs.pictures,
                "model": inputs.model_weights,
                "saes": inputs.all_sae_weights,
            }
        ),
        code=parameters.code("fgg.report.manifest"),
    message:
        "Recording the run"
    shell:
        "python -m fgg.report.manifest --configuration {params.configuration:q} --inputs {params.inputs:q}"
        " --output {output.record} > {log} 2>&1"
