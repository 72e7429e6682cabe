# Deleted and damaged files are made again before the run that was asked for, by a run of their own (fgg/pipeline/again.py).
# Included last, when all rules are known.
from snakemake.cli import get_argument_parser
from snakemake.logging import logger

from fgg.jobs.plan import note_plan
from fgg.pipeline import live_line
from fgg.pipeline.again import typed
from fgg.pipeline.commands import plan
from fgg.pipeline.tending import Tending

tending = Tending(
    Path.cwd(),
    [
        (path.regex(), path.is_directory)
        for rule in workflow.rules
        for path in rule.output
        if not path.is_temp
    ],
    (
        typed(
            sys.argv,
            get_argument_parser(),
            workflow.main_snakefile,
            workflow.overwrite_configfiles,
        )
        if workflow.is_main_process and not IS_MODULE
        else None
    ),
)
try:
    for remark in tending.before():
        print(remark, file=sys.stderr, flush=True)
except FggError as error:
    raise WorkflowError(str(error))


onstart:
    try:
        runs.claim(Path.cwd())
        check_outputs(
            path
            for job in workflow.dag.needrun_jobs()
            for path in [
                *job.output,
                *job.log,
                *([job.benchmark] if job.benchmark else []),
            ]
        )
        if workflow.local_exec:
            note_plan(runs.SHARED, plan(study, inputs))
        planned = {
            path: workflow.dag.needrun(job)
            for job in workflow.dag.jobs
            for path in job.output
            if not path.is_temp
        }
        for remark in tending.start(
            planned, (path for path, runs_now in planned.items() if not runs_now)
        ):
            print(remark, file=sys.stderr, flush=True)
        live_line.begin(
            logger,
            (job.rule.name for job in workflow.dag.needrun_jobs()),
            workflow.output_settings.quiet or (),
        )
    except FggError as error:
        raise WorkflowError(str(error))


onsuccess:
    live_line.end()
    runs.tidy(runs.SHARED)
    tending.note()


onerror:
    live_line.end()
    print(runs.advice(log), file=sys.stderr)
    tending.note()
