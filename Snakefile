# fgg: are Vision Transformer explanations more faithful when gated with sparse autoencoder features?
from snakemake.utils import min_version

min_version("9.10")


configfile: workflow.source_path("config.yaml")


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/attribution.smk"
include: "workflow/rules/features.smk"
include: "workflow/rules/faithfulness.smk"
include: "workflow/rules/comparison.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/selection.smk"
include: "workflow/rules/cases.smk"
include: "workflow/rules/again.smk"


rule all:
    default_target: True
    input:
        "results/summary.csv",
