"""Settings of a training as a pipeline file gives them."""

from __future__ import annotations

import pytest

from medseg.config.load import load_run_config
from medseg.errors import ConfigError
from medseg.pipeline.train import plan
from medseg.training.options import TrainingOptions, TrainingSettings


def test_the_old_key_of_the_time_names_the_new_one(project):
    with pytest.raises(
        ConfigError,
        match=r"no such key `time_limit_min`; it is now `time`, with its unit, such as `time: 30min`",
    ):
        load_run_config(project / "pipelines" / "chest_xray.yaml", overrides=["training.time_limit_min=30"])


def test_times_are_read_with_their_units(project):
    path = project / "pipelines" / "chest_xray.yaml"
    overrides = ["training.time=1h 30min", "training.checkpoint_every=45s", "training.epochs=null"]
    training = load_run_config(path, overrides=overrides).config.training
    assert training is not None
    assert (training.time, training.checkpoint_every, training.target_epochs) == (5400, 45, None)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({}, 30), ({"epochs": 5}, 5), ({"time": 60}, None), ({"epochs": 5, "time": 60}, 5)],
)
def test_epochs_follow_from_what_is_given(changes, expected):
    assert TrainingOptions(**changes).target_epochs == expected


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"epochs": 5}, "5 epochs, batch 8"),
        ({"epochs": 5, "time": "30min"}, "5 epochs within 30 min, batch 8"),
        ({"time": "30min"}, "as many epochs as fit within 30 min, batch 8"),
        ({"epochs": "auto"}, "as many epochs as fit into the time of the budget, batch 8"),
    ],
)
def test_a_dry_run_says_how_long_it_trains(project, changes, text):
    class Context:
        settings = load_run_config(project / "pipelines" / "chest_xray.yaml").config.model_copy(
            update={"training": TrainingSettings(**changes)}
        )

    assert text in plan(Context())  # type: ignore[arg-type]
