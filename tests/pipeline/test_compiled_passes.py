"""`compile` reaches the jobs that perturb images, and leaves the settings of all jobs as they were where it is off."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from fgg.pipeline.parameters import Parameters
from fgg.pipeline.study import Study

CONFIG = yaml.safe_load((Path(__file__).parents[2] / "config.yaml").read_text(encoding="utf-8"))
ONE = SimpleNamespace(dataset="elpv", experiment="transmm")


@pytest.mark.parametrize("asked", [None, False, True])
def test_settings_of_jobs(asked):
    parameters = Parameters(Study(CONFIG if asked is None else {**CONFIG, "compile": asked}))
    for settings in (parameters.score_settings(), parameters.response_settings()):
        assert json.loads(settings(ONE)).get("compile") == (True if asked else None)
    assert "compile" not in json.loads(parameters.settings_of("seed", "device")(ONE))
