"""The section search: what it tries is checked like the file itself, before anything runs."""

from __future__ import annotations

import pytest

from medseg.config import SettingsError, load_run_config
from medseg.config.yaml_model import with_values
from medseg.search.space import parameters, settings_of

BASE = """medseg: 1
name: searched
data:
  source: {use: phantom, cases: 8}
labels: {lung_right: {value: 1}, lung_left: {value: 2}}
regions: {lung: [lung_right, lung_left]}
preprocess: [{use: resize, size: [64, 48]}]
model: {use: unet, channels: [8, 16]}
training: {epochs: 2}
search:
"""


@pytest.fixture
def load(tmp_path):
    def load(text, *overrides, base=BASE):
        path = tmp_path / "p.yaml"
        lines = (f"  {line}\n" for line in text.strip().splitlines())
        path.write_text(base + "".join(lines))
        return load_run_config(path, overrides=overrides).config

    return load


SPACE = """
metric: dice_lung
settings: {training.epochs: 1}
space:
  training.learning_rate: {low: 1e-4, high: 1e-2, log: true}
  training.loss: {choices: [dice_ce, {use: tversky, alpha: 0.2}]}
  training.loss.beta: {low: 0.5, high: 0.9}
  training.batch_size: {low: 1, high: 4}
  model.channels: {choices: [[8, 16], [8, 16, 32]]}
  model.start_from: {choices: [null, chest-xray-lungs, ../mine]}
  training.ema: {choices: [null, 0.9]}
  augment: {choices: [[], [{use: rotate, degrees: 8}]]}
"""


def test_choices_are_written_out_and_their_paths_are_of_the_file(load, tmp_path):
    search = load(SPACE).search
    assert search.space["training.loss"].choices[0] == {"use": "dice_ce"}
    mine = str(tmp_path.parent / "mine")
    assert search.space["model.start_from"].choices == (None, "chest-xray-lungs", mine)
    kinds = {p.key: p.kind for p in parameters(search.space)}
    assert (kinds["training.learning_rate"], kinds["training.batch_size"]) == ("float", "int")
    assert parameters(search.space)[1].labels == ("dice_ce", "{use: tversky, alpha: 0.2}")


def test_values_of_a_trial_become_settings_whatever_their_order(load):
    config = load(SPACE)
    found = parameters(config.search.space)
    raw = {
        "training.loss.beta": 0.6,
        "training.loss": "{use: tversky, alpha: 0.2}",
        "augment": "[{use: rotate, degrees: 8}]",
        "model.channels": "[8, 16, 32]",
    }
    chosen = [p for p in found if p.key in raw]
    changed = with_values(config, settings_of(sorted(chosen, key=lambda p: -len(p.key)), raw))
    assert (changed.training.loss.use, changed.training.loss.alpha, changed.training.loss.beta) == (
        "tversky",
        0.2,
        0.6,
    )
    assert changed.model.channels == (8, 16, 32)
    assert changed.augment[0].degrees == 8
    assert config.training.loss.use == "dice_ce"


@pytest.mark.parametrize(
    ("line", "says", "pointed"),
    [
        ("training.lerning_rate: {low: 1, high: 2}", "did you mean `learning_rate`", "training.l"),
        ("training.learning_rate: {low: 0, high: 1}", "a number above 0, found 0", "0, high"),
        ("training.loss: {choices: [dice_ce, dise]}", "unknown `dise`", "dise"),
        ("training.loss: {choices: [{use: tversky, alfa: 1}]}", "no such key `alfa`", "{use"),
        ("training.loss.alpha: {low: 0.1, high: 0.9}", "no such key `alpha`", "training.loss.alpha"),
        (
            "model.channels: {choices: [[8, 16], [8]]}",
            "a list of at least 2 entries, found a list of 1",
            "[8]]",
        ),
        ("model.channels: {choices: [[8, 16, 32, 64, 64, 64]]}", "at most", "[8, 16, 32"),
        ("data.split.seed: {choices: [1, 2]}", "`data.split.seed` is none of them", "data"),
        ("search.trials: {choices: [1, 2]}", "is none of them", "search"),
        ("training.ema: {choices: [0.9, 0.9]}", "stands twice, or two choices look the same: 0.9", "choices"),
        ("training.batch_size: {choices: [2, auto]}", "tries values, and `auto` is none", "auto"),
        ("training.ema: {}", "give either low and high, or choices", "training.ema"),
        ("training.ema: {low: 0.1}", "a range has both low and high", "training.ema"),
        ("training.ema: {low: 0.9, high: 0.1}", "low must be below high", "training.ema"),
        ("training.ema: {low: 0.0, high: 0.1, log: true}", "starts above 0", "training.ema"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_line(load, line, says, pointed):
    with pytest.raises(SettingsError) as caught:
        load(f"space:\n  {line}")
    problem = caught.value.problems[0]
    assert len(caught.value.problems) == 1
    assert says in problem.text
    assert problem.mark.line + 1 == 12
    assert line[problem.mark.column - 4 :].startswith(pointed)


def test_a_value_that_goes_with_some_other_value_is_left_to_the_trials(load):
    assert load(
        "space:\n  training.loss: {choices: [dice_ce, tversky]}\n  training.loss.alpha: {low: 0.1, high: 0.9}"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("metric: dice_lungs\nspace: {training.ema: {low: 0.1, high: 0.9}}", "no structure `lungs`"),
        (
            "settings: {training.epochs: 0}\nspace: {training.ema: {low: 0.1, high: 0.9}}",
            "at least 1, found 0",
        ),
        ("settings: {training.ema: 0.5}\nspace: {training.ema: {low: 0.1, high: 0.9}}", "keep one"),
        ("storage: a.db\nstorage_env: A\nspace: {training.ema: {low: 0.1, high: 0.9}}", "two places"),
        (
            "storage: postgresql://u:p@h/n\nspace: {training.ema: {low: 0.1, high: 0.9}}",
            "may hold a password",
        ),
        ("space: {}", "at least 1"),
    ],
)
def test_sections_that_make_no_search_are_refused(load, text, says):
    with pytest.raises(SettingsError, match=says):
        load(text)


def test_a_search_needs_a_training_and_validation_cases(load):
    space = "space: {training.ema: {low: 0.1, high: 0.9}}"
    with pytest.raises(SettingsError, match="no section `training`"):
        load(
            space,
            base=BASE.replace("training: {epochs: 2}\n", "").replace("[8, 16]", "[8, 16], start_from: x"),
        )
    split = BASE.replace(
        "labels:", "  split: {use: holdout, validation: 0, training: 0.8, test: 0.2}\nlabels:"
    )
    with pytest.raises(SettingsError, match="compares trials on validation cases"):
        load(space, base=split.replace("epochs: 2", "epochs: 2, keep: last"))


def test_set_reaches_into_the_search(load):
    config = load(SPACE, "search.trials=3", "search.then=stop")
    assert (config.search.trials, config.search.then) == (3, "stop")


def test_what_the_plan_decides_on_is_checked_by_the_trials(load):
    auto = BASE.replace("{use: unet, channels: [8, 16]}", "auto").replace(
        "{epochs: 2}", "{learning_rate: auto}"
    )
    space = """
space:
  model.channels: {choices: [[8, 16], [1]]}
  training.learning_rate: {low: 1e-4, high: 1e-2, log: true}
"""
    assert list(load(space, base=auto).search.space) == ["model.channels", "training.learning_rate"]
    with pytest.raises(SettingsError, match="a number above 0, found -1"):
        load(space.replace("low: 1e-4", "low: -1.0").replace(", log: true", ""), base=auto)
