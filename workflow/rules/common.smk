# What the rules share. The ideas are in fgg/pipeline, where unit tests reach them; here Snakemake meets them.
import re
import sys
from pathlib import Path

from fgg.errors import FggError
from fgg.jobs.plan import note_plan
from fgg.pipeline import runs
from fgg.pipeline.commands import plan
from fgg.pipeline.environment import use_environment
from fgg.pipeline.inputs import Inputs
from fgg.pipeline.study import RESPONSE_KEYS, RUN_KEYS, Study

# Jobs run in the environment that Snakemake runs in, and find the package from any folder.
use_environment(workflow.basedir)

try:
    study = Study(
        config,
        local=lambda: workflow.local_exec,
        places=[
            Path.cwd(),
            workflow.workdir_init,
            *(Path(file).parent for file in workflow.configfiles),
        ],
    )
    config, inputs = study.config, Inputs(study)
    if workflow.is_main_process:
        study.warn()
        if remark := runs.enter(Path.cwd()):
            print(remark, file=sys.stderr)
except FggError as error:
    raise WorkflowError(str(error))


wildcard_constraints:
    dataset="|".join(map(re.escape, study.datasets)),
    experiment="[^/]+",
    layer="[0-9]+",
    metric=study.foreign_metrics(),
    split="train|val|test",
    source="|".join(map(re.escape, study.sources)) or "(?!)",
    shard=f"shards/[0-9]+-of-{study.shards}/" if study.shards > 1 else "(?:)",


# Light ones, and downloads, which nodes of a cluster could not make: they run beside snakemake itself.
localrules:
    download,
    merge,
    merge_gated,
    figures,
    sanity,
    readme,
    pages,
    summary,


def piece(path):
    """An output with the wildcard shard, which is empty where nothing is divided; shards go after their merge."""
    return temp(path) if study.shards > 1 else path


def case_names(wildcards):
    """What the report's list tells of a file: a case's picture, a feature's page, or a table."""
    kind = wildcards.get("kind", "table")
    return {
        "layer": wildcards.get("layer", "all"),
        "kind": {"features": "feature page"}.get(kind, kind),
        "name": wildcards.name.replace("_", " "),
    }


onstart:
    try:
        runs.claim(Path.cwd())
        if workflow.local_exec:
            note_plan(runs.SHARED, plan(study, inputs))
    except FggError as error:
        raise WorkflowError(str(error))


onsuccess:
    runs.tidy(runs.SHARED)


onerror:
    print(runs.advice(log), file=sys.stderr)
