rule download:
    output:
        contents="data/downloads/{source}/contents.json",
    log:
        "logs/download/{source}.log",
    conda:
        ENVIRONMENT
    resources:
        **parameters.needs("download"),
    params:
        row=parameters.source_row,
        code=parameters.code("fgg.data.download"),
    message:
        "Downloading {wildcards.source}"
    shell:
        "python -m fgg.data.download --name {wildcards.source} --row {params.row:q} --output data/downloads > {log} 2>&1"


rule prepare:
    input:
        downloaded=inputs.downloaded_images,
        sample=ancient(nameable(inputs.sample_file)),
    output:
        train="data/prepared/{dataset}/train.parquet",
        val="data/prepared/{dataset}/val.parquet",
        test="data/prepared/{dataset}/test.parquet",
        record="data/prepared/{dataset}/dataset.json",
    log:
        "logs/prepare/{dataset}.log",
    conda:
        ENVIRONMENT
    resources:
        **parameters.needs("prepare"),
    params:
        settings=parameters.prepare_settings,
        content=parameters.content(inputs.pictures),
        code=parameters.source_code,
    message:
        "Preparing the images of {wildcards.dataset}"
    shell:
        "python -m fgg.data.prepare --dataset {wildcards.dataset} --settings {params.settings:q}"
        " --output data/prepared/{wildcards.dataset} > {log} 2>&1"
