# What the rules share. The logic is in fgg/pipeline, where unit tests can reach it. This file connects it to Snakemake.
import re
import sys
from pathlib import Path

from fgg.errors import FggError, doubled_braces
from fgg.pipeline import runs
from fgg.pipeline.environment import check_folders, check_outputs, use_environment
from fgg.pipeline.inputs import Inputs
from fgg.pipeline.parameters import EXPLAINED_KEYS, RUN_KEYS, Parameters
from fgg.pipeline.study import Study
from fgg.pipeline.user_files import nameable
from fgg.pipeline.workflow_files import (
    PACKAGE,
    WORKFLOW,
    check_unmoved,
    import_folder,
    over_defaults,
)

ENVIRONMENT = doubled_braces(f"{WORKFLOW}/envs/fgg.yaml")  # of all rules
# Whether another Snakefile uses this one as a module. Snakemake then calls no onstart, and so tends to no run (again.smk).
IS_MODULE = not workflow.modifier.is_main_snakefile()

try:
    # Jobs use the environment in which Snakemake runs, and can import the package from any folder.
    deployed = bool(workflow.deployment_settings.deployment_method)
    use_environment(import_folder(PACKAGE, deployed))
    if IS_MODULE:
        check_unmoved(workflow.modifier.path_modifier.replace_prefix)
        config = over_defaults(config)
    study = Study(
        config,
        local=lambda: workflow.local_exec,
        places=[
            Path.cwd(),
            workflow.workdir_init,
            *(Path(file).parent for file in workflow.configfiles),
        ],
    )
    config, inputs, parameters = study.config, Inputs(study), Parameters(study)
    if workflow.is_main_process:
        check_folders(study.folders())
        study.warn()
        if not IS_MODULE and (remark := runs.enter(Path.cwd())):
            print(remark, file=sys.stderr)
except FggError as error:
    raise WorkflowError(str(error))


wildcard_constraints:
    dataset="|".join(map(re.escape, study.settings)),
    experiment="[^/]+",
    layer="[0-9]+",
    metric=study.foreign_metrics(),
    split="train|val|test",
    source="|".join(map(re.escape, study.sources)) or "(?!)",
    shard=f"shards/[0-9]+-of-{study.shards}/" if study.shards > 1 else "(?:)",


# These rules run on the machine of Snakemake itself: they are light, or they download files, and the nodes of a cluster
# may lack internet access.
workflow.localrules(  # the directive of this name does not know the names that a module gives
    *map(
        workflow.modifier.modify_rulename,
        [
            "download",
            "chosen_sae",
            "merge",
            "merge_gated",
            "figures",
            "measurable",
            "pooled",
            "sanity",
            "thesis_statistics",
            "feature_deletion_summary",
            "readme",
            "pages",
            "report_page",
            "manifest",
            "summary",
        ],
    )
)


def piece(path):
    """An output with the wildcard shard, which is empty without shards. Snakemake deletes shards after their merge."""
    return temp(path) if study.shards > 1 else path


def case_names(wildcards):
    """Labels of a file in the report's list: a picture of a case, a page of a feature, or a table."""
    kind = wildcards.get("kind", "table")
    return {
        "layer": wildcards.get("layer", "all"),
        "kind": {"features": "feature page"}.get(kind, kind),
        "name": wildcards.name.replace("_", " "),
    }


def feature_page_names(wildcards):
    """Labels of a feature page in the report's list."""
    own = wildcards.name.replace("_", " ")
    return {
        "layer": wildcards.get("layer", "all"),
        "page": "list" if own == "index" else own,
    }
