"""Merging, overriding and checking a file against a model, and what is said about mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from medseg.config.problems import SettingsError
from medseg.config.yaml_model import load_yaml_model
from medseg.errors import ConfigError


class Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Adamw(Options):
    use: Literal["adamw"] = "adamw"
    weight_decay: float = Field(1e-4, ge=0, description="Decay per step.")


class Sgd(Options):
    use: Literal["sgd"] = "sgd"
    momentum: float = Field(0.9, ge=0, lt=1)


class Resize(Options):
    use: Literal["resize"] = "resize"
    size: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        min_length=2, max_length=3, description="New number of voxels."
    )


class Window(Options):
    use: Literal["window"] = "window"
    window: float = 1.0
    low: float = 0.0
    high: float = 1.0

    @model_validator(mode="after")
    def _ascends(self):
        if self.low >= self.high:
            raise ValueError(f"low must be below high, found {self.low:g} and {self.high:g}")
        return self


Optimiser = Annotated[Adamw | Sgd, Field(discriminator="use")]
Step = Annotated[Resize | Window, Field(discriminator="use")]


class Training(Options):
    epochs: int = Field(10, ge=1)
    learning_rate: float = Field(description="Highest rate.", gt=0)
    optimiser: Optimiser = Adamw()
    schedule: Optimiser | None = None
    amp: bool = False


class Run(Options):
    name: str
    training: Training
    steps: tuple[Step, ...] = ()
    only: Sgd | None = None
    threads: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    labels: Literal["all"] | tuple[str, ...] = "all"
    values: dict[int, tuple[str, ...]] = Field(default_factory=dict)
    by_name: dict[str, Optimiser] = Field(default_factory=dict)
    colour: Literal["red", "green"] = "red"
    path: Path | None = None
    pair: tuple[int, int] = (1, 2)
    paths: tuple[Path, ...] = ()
    start: str = ""
    name_or_path: ClassVar = frozenset({("start",)})


HEAD = "name: x\ntraining: {learning_rate: 1e-3}\n"


def load(folder: Path, text: str, *overrides: str) -> Run:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return load_yaml_model(path, Run, overrides).config


def problems(folder: Path, text: str, *overrides: str) -> dict[str, str]:
    with pytest.raises(SettingsError) as caught:
        load(folder, text, *overrides)
    return {problem.path: problem.text for problem in caught.value.problems}


class Node(Options):
    medseg_node: Literal[1]
    folder: Path


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("medseg: 1\ndata: {}\nname: x\n", "a pipeline, for `medseg run`"),
        ("medseg_deidentify: 1\n", "settings for `medseg deidentify --settings`"),
        ("folder: x\n", "needs the key `medseg_node`"),
        ("medseg: 1\nmedseg_node: 1\nfolder: x\n", "no such key `medseg`"),
    ],
)
def test_a_file_of_another_command_is_one_problem(tmp_path: Path, text: str, found: str):
    path = tmp_path / "node.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_yaml_model(path, Node)
    (problem,) = caught.value.problems
    assert found in problem.text


def test_error_text_shows_every_problem_with_place_line_and_carets(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(
        "name: x\n"
        "training:\n"
        "  learnig_rate: 1e-3\n"
        "  optimiser: {use: adamm, weight_decay: 1e-4}\n"
        "  epochs: -1\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_yaml_model(Path("run.yaml"), Run)
    assert str(caught.value) == (
        "run.yaml: 3 problems\n\n"
        "  run.yaml:3:3  training.learnig_rate: no such key `learnig_rate`, did you mean `learning_rate`?\n"
        "      3 |   learnig_rate: 1e-3\n"
        "        |   ^^^^^^^^^^^^\n"
        "  run.yaml:4:20  training.optimiser: unknown `use: adamm`, did you mean 'adamw'? "
        "(one of 'adamw', 'sgd')\n"
        "      4 |   optimiser: {use: adamm, weight_decay: 1e-4}\n"
        "        |                    ^^^^^\n"
        "  run.yaml:5:11  training.epochs: needs a number of at least 1, found -1\n"
        "      5 |   epochs: -1\n"
        "        |           ^^"
    )
    assert caught.value.exit_code == 2
    assert caught.value.problems[0].to_json() == {
        "path": "training.learnig_rate",
        "text": "no such key `learnig_rate`, did you mean `learning_rate`?",
        "file": "run.yaml",
        "line": 3,
        "column": 3,
        "source_line": "  learnig_rate: 1e-3",
    }


@pytest.mark.parametrize(
    ("line", "path", "text"),
    [
        ("colour: gren", "colour", "needs one of 'red', 'green', found 'gren', did you mean 'green'?"),
        ("threads: 0", "threads", "needs 'auto' or a number of at least 1, found 0"),
        ("threads: atuo", "threads", "needs 'auto' or a whole number, found 'atuo', did you mean 'auto'?"),
        ("labels: liver", "labels", "needs 'all' or a list, found 'liver'"),
        ("labels: [a, 1]", "labels.1", "needs text, found 1; write it in quotes"),
        ("values: {x: [a]}", "values.x", "the key `x` must be a whole number"),
        ("values: {1: a}", "values.1", "needs a list, found 'a'; write it as [a]"),
        (
            "steps: [window, {use: resize, size: [1]}]",
            "steps.1.size",
            "needs a list of at least 2 entries, found a list of 1",
        ),
        (
            "steps: [resize]",
            "steps.0",
            "needs the key `size` (New number of voxels); write {use: resize, size: ...}",
        ),
        ("steps: [{size: [1, 2]}]", "steps.0", "needs the key `use`, one of 'resize', 'window'"),
        ("steps: [{use: 3}]", "steps.0", "needs the key `use`, one of 'resize', 'window', found 3"),
        ("steps: [3]", "steps.0", "needs one of 'resize', 'window', found 3"),
        ("steps: [windw]", "steps.0", "unknown `windw`, did you mean 'window'? (one of 'resize', 'window')"),
        ("steps: [zzz]", "steps.0", "unknown `zzz` (one of 'resize', 'window')"),
        ("steps: window", "steps", "needs a list, found 'window'; write it as [window]"),
        ("steps: [{use: window, low: 2}]", "steps.0", "low must be below high, found 2 and 1"),
        ("steps: [{use: window, window: x}]", "steps.0.window", "needs a number, found 'x'"),
        ("steps: [{use: window, window: 1, low: x}]", "steps.0.low", "needs a number, found 'x'"),
        (
            "steps: [{use: window, windov: 1}]",
            "steps.0.windov",
            "no such key `windov`, did you mean `window`?",
        ),
        ("only: {momentum: 1}", "only.momentum", "needs a number below 1, found 1"),
        (
            "by_name: {a: {use: sgd, momentum: -1}}",
            "by_name.a.momentum",
            "needs a number of at least 0, found -1",
        ),
        ("epochs: 3", "epochs", "no such key `epochs`; it belongs into `training`"),
        ("path: 3", "path", "needs text, found 3; write it in quotes"),
        ("pair: [1]", "pair", "needs more entries, found a list of 1"),
        ("path: [a]", "path", "needs text, found a list of 1"),
        ("only: 3", "only", "needs one of 'sgd', found 3"),
    ],
)
def test_sentences(tmp_path: Path, line, path, text):
    assert problems(tmp_path, HEAD + line + "\n") == {path: text}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("epochs: '6'", "needs a whole number, found '6'; write it without quotes"),
        ("epochs: 6.0", "needs a whole number, found 6.0"),
        ("epochs: true", "needs a whole number, found true"),
        ("epochs:", "needs a whole number, found nothing"),
        ("amp: yes", "needs true or false, found 'yes'"),
        ("amp: 1", "needs true or false, found 1"),
        ("learning_rate: 3e--4", "needs a number, found '3e--4'"),
        ("learning_rate: true", "needs a number, found true"),
        ("optimiser: [adamw]", "needs one of 'adamw', 'sgd', found a list of 1"),
    ],
)
def test_types_are_strict(tmp_path: Path, value, text):
    rate = "" if value.startswith("learning") else "  learning_rate: 1e-3\n"
    assert list(problems(tmp_path, f"name: x\ntraining:\n{rate}  {value}\n").values()) == [text]


def test_missing_twin_of_a_misspelt_key_is_not_told_but_others_are(tmp_path: Path):
    found = problems(tmp_path, "nmae: x\ntraining: {learning_rte: 1}\n")
    assert set(found) == {"nmae", "training.learning_rte"}
    found = problems(tmp_path, "training: {}\n")
    assert found == {"": "needs the key `name`", "training": "needs the key `learning_rate` (Highest rate)"}


def test_bare_names_equal_the_written_out_choice(tmp_path: Path):
    bare = load(
        tmp_path,
        "name: x\ntraining: {learning_rate: 1, optimiser: sgd, schedule: adamw}\nonly: sgd\n"
        "steps: [window]\nby_name: {a: sgd}\n",
    )
    full = load(
        tmp_path,
        "name: x\ntraining: {learning_rate: 1, optimiser: {use: sgd}, schedule: {use: adamw}}\n"
        "only: {use: sgd}\nsteps: [{use: window}]\nby_name: {a: {use: sgd}}\n",
    )
    assert bare == full
    assert isinstance(bare.training.optimiser, Sgd)


def test_digest_is_of_the_settings_not_of_the_text(tmp_path: Path):
    path = tmp_path / "a.yaml"
    path.write_text(HEAD)
    first = load_yaml_model(path, Run)
    path.write_text("# comment\ntraining:\n  learning_rate: 0.001\n  epochs: 10\nname: 'x'\n")
    assert load_yaml_model(path, Run).digest == first.digest
    assert load_yaml_model(path, Run, ["training.epochs=11"]).digest != first.digest


def test_overrides_are_typed_like_the_file(tmp_path: Path):
    run = load(
        tmp_path,
        "name: x\ntraining: {learning_rate: 1e-3, optimiser: adamw}\n"
        "steps: [window, {use: resize, size: [4, 4]}]\nvalues: {1: [a]}\n",
        "training.epochs=3",
        "training.learning_rate=3e-4",
        "training.optimiser.weight_decay=0.5",
        "training.schedule=sgd",
        "steps.0.low=-1",
        "steps.1.size=[8, 9]",
        "values.1=[b, c]",
        "only.momentum=0.1",
        "only.use=sgd",
        'name="7"',
        "threads=4",
        "threads=5",
        "start==",
    )
    assert (run.training.epochs, run.training.learning_rate) == (3, 3e-4)
    assert run.training.optimiser == Adamw(weight_decay=0.5)
    assert run.training.schedule == Sgd()
    assert run.steps == (Window(low=-1), Resize(size=(8, 9)))
    assert run.values == {1: ("b", "c")}
    assert run.only == Sgd(momentum=0.1)
    assert (run.name, run.threads, run.start) == ("7", 5, "=")


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("training.epoch=3", "did you mean `epochs`"),
        ("trainig.epochs=3", "no such key `trainig`, did you mean `training`?"),
        ("training.epochs='3'", "write it without quotes"),
        ("steps.4.low=1", "`steps` is a list and has no entry 4; its entries are 0 to 0"),
        ("steps.x=1", "has no entry x"),
        ("steps.-1=1", "has no entry -1"),
        ("name.first=1", "`name` is 'x', not a block of settings"),
        ("training.epochs", "expected --set key.key=value"),
        ("=3", "expected --set key.key=value"),
        ("a..b=3", "expected --set key.key=value"),
        ("training.epochs=[1", "not YAML"),
        ("training.epochs=!!int 3", "tag"),
        ("labels.0=a", "`labels` is 'all', not a block"),
    ],
)
def test_a_wrong_override_is_shown_as_typed(tmp_path: Path, override, text):
    lines = HEAD + "steps: [window]\n" + ("labels: all\n" if override.startswith("labels") else "")
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, lines, override)
    (problem,) = caught.value.problems
    assert text in problem.text
    assert problem.where == f"--set {override}"
    assert f"        | {override}\n" in problem.render()


def test_caret_of_an_override_stands_under_its_value(tmp_path: Path):
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, HEAD, "training.epochs=-7")
    assert caught.value.problems[0].render().splitlines()[1:] == [
        "        | training.epochs=-7",
        "        |                 ^^",
    ]


def test_paths_are_relative_to_the_file_and_for_overrides_to_the_working_folder(tmp_path: Path, monkeypatch):
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("MEDSEG_TEST_ROOT", "/data")
    text = HEAD + 'path: ../a/b.csv\npaths: ["${MEDSEG_TEST_ROOT}/x", /abs/./y, ~/z]\n'
    run = load(there, text)
    assert run.path == tmp_path / "a" / "b.csv"
    assert run.paths == (Path("/data/x"), Path("/abs/y"), Path.home() / "z")
    assert load(there, text, "path=c.csv").path == here / "c.csv"


def test_name_or_path_is_a_path_only_where_it_looks_like_one(tmp_path: Path):
    assert load(tmp_path, HEAD + "start: chest-xray-lungs\n").start == "chest-xray-lungs"
    assert load(tmp_path, HEAD + "start: ./bundle\n").start == str(tmp_path / "bundle")


def test_a_dotdot_behind_a_link_is_not_simplified_away(tmp_path: Path):
    (tmp_path / "real" / "inner").mkdir(parents=True)
    (tmp_path / "real" / "x.csv").touch()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "inner")
    assert (
        load(tmp_path, HEAD + "path: link/../x.csv\n").path.resolve() == tmp_path.resolve() / "real" / "x.csv"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ('"${MEDSEG_TEST_NOT_SET}/x"', "the environment variable MEDSEG_TEST_NOT_SET is not set"),
        ('"${}/x"', "not a variable"),
        ('"${a b}/x"', "not a variable"),
        ('"${HOME/x"', "expected a path"),
        ('""', "expected a path"),
    ],
)
def test_variables_in_paths(tmp_path: Path, monkeypatch, value, text):
    monkeypatch.delenv("MEDSEG_TEST_NOT_SET", raising=False)
    assert text in problems(tmp_path, HEAD + f"path: {value}\n")["path"]


def test_variables_elsewhere_are_text(tmp_path: Path):
    assert load(tmp_path, "name: '${HOME}'\ntraining: {learning_rate: 1}\n").name == "${HOME}"


def test_extends_merges_and_the_bases_errors_name_the_base(tmp_path: Path):
    (tmp_path / "base.yaml").write_text(HEAD + "steps: [window]\nlabels: [a, b]\nthreads: 2\n")
    run = load(
        tmp_path,
        "extends: base.yaml\nname: y\ntraining: {optimiser: sgd, epochs: 2}\nlabels: [c]\n",
        "training.epochs=5",
    )
    assert (run.name, run.threads, run.labels, run.steps) == ("y", 2, ("c",), (Window(),))
    assert (run.training.learning_rate, run.training.epochs, run.training.optimiser) == (1e-3, 5, Sgd())
    (tmp_path / "base.yaml").write_text("nmae: x\ntraining: {learning_rate: 1}\n")
    with pytest.raises(SettingsError, match=r"base\.yaml:1:1  nmae") as caught:
        load(tmp_path, "extends: base.yaml\nname: y\ntraining: {epoch: 2}\n")
    assert [Path(p.mark.source.name).name for p in caught.value.problems] == ["base.yaml", "run.yaml"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("../base.yaml", "same folder"),
        ("/etc/passwd", "same folder"),
        ("sub/base.yaml", "same folder"),
        ("..", "same folder"),
        ("[base.yaml]", "same folder"),
        ("nothing.yaml", "no file 'nothing.yaml'"),
        ("run.yaml", "circle: run.yaml -> run.yaml"),
        ("loop.yaml", "circle: run.yaml -> loop.yaml -> run.yaml"),
    ],
)
def test_extends_stays_in_the_folder_and_ends(tmp_path: Path, value, text):
    (tmp_path / "loop.yaml").write_text("extends: run.yaml\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "base.yaml").write_text(HEAD)
    assert text in problems(tmp_path, f"extends: {value}\n{HEAD}")["extends"]


def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path):
    assert problems(tmp_path, "- a\n") == {"": "expected settings as `key: value` at the top of the file"}


def test_long_lists_of_problems_end_with_a_count_but_are_all_kept(tmp_path: Path):
    lines = "".join(f"zz{n}: 1\n" for n in range(70))
    with pytest.raises(SettingsError, match=r"70 problems(.|\n)*and 20 more") as caught:
        load(tmp_path, HEAD + lines)
    assert len(caught.value.problems) == 70


def test_long_lines_are_cut_around_the_caret_and_made_printable(tmp_path: Path):
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, HEAD + "labels: [" + "aaaa, " * 60 + "\u200b7, " + "7" + ", b" * 60 + "]\n")
    line, carets = caught.value.problems[0].render().splitlines()[1:]
    assert len(line) < 130
    assert line[carets.index("^")] == "7"
    assert line.isprintable()
