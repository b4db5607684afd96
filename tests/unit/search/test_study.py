"""Databases of a search: shared, foreign, damaged, out of reach."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("optuna", reason="searches need the extra search")

from formula import DIGEST, options

from medseg.errors import ConfigError, MissingPackageError, StorageError
from medseg.search import storage
from medseg.search.records import Outcome
from medseg.search.study import SearchStudy, study_digest


@pytest.fixture
def opened(tmp_path):
    studies = []

    def make(folder, digest=DIGEST, **changes):
        studies.append(SearchStudy(options(**changes), folder=tmp_path / folder, name="s", digest=digest))
        return studies[-1]

    yield make
    for study in studies:
        study.close()


def complete(value):
    return Outcome(state="complete", value=value)


def test_runs_that_name_one_file_share_the_trials(opened, tmp_path):
    path = tmp_path / "with space #?%41.db"
    one, two = (opened(folder, storage=path, trials=3) for folder in ("one", "two"))
    jobs = [one.next(), two.next(), one.next()]
    assert [job.number for job in jobs] == [0, 1, 2]
    assert two.next() is None
    assert (one.elsewhere(), two.elsewhere()) == (1, 2)
    for study, job in zip((one, two, one), jobs, strict=True):
        study.finish(job.number, complete(0.5))
    assert one.rows() == two.rows()
    assert one.elsewhere() == 0
    assert path.exists()


def test_runs_that_make_the_file_at_the_same_time_both_get_it(opened, tmp_path, monkeypatch):
    import optuna
    import sqlalchemy.exc

    real, late = optuna.storages.RDBStorage.__init__, [2]

    def one_is_late(*arguments, **options):
        late[0] -= 1
        if late[0] >= 0:
            cause = Exception("UNIQUE constraint failed: alembic_version.version_num")
            raise sqlalchemy.exc.IntegrityError("INSERT", {}, cause)
        return real(*arguments, **options)

    monkeypatch.setattr(storage, "_AGAIN_S", 0.01)
    monkeypatch.setattr(optuna.storages.RDBStorage, "__init__", one_is_late)
    assert opened("one", storage=tmp_path / "shared.db").next().number == 0
    late[0] = 99
    with pytest.raises(StorageError, match="UNIQUE constraint failed"):
        opened("two", storage=tmp_path / "other.db")


def test_only_its_own_trials_go_on_after_a_kill(opened, tmp_path):
    path = tmp_path / "shared.db"
    one, two = (opened(folder, storage=path) for folder in ("one", "two"))
    job = one.next()
    two.next()
    again = opened("one", storage=path)
    assert [found.number for found in again.interrupted()] == [job.number]
    assert again.interrupted()[0].values == job.values


def test_trials_of_a_dead_machine_are_tried_again(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "HEARTBEAT_S", 1)
    monkeypatch.setattr(storage, "GRACE_S", 1)
    path = tmp_path / "shared.db"
    dead = opened("dead", storage=path, trials=1)
    job = dead.next()
    dead.close()
    alive = opened("alive", storage=path, trials=1)
    assert alive.next() is None
    monkeypatch.setattr("optuna.storages._rdb.storage.RDBStorage._get_stale_trial_ids", lambda *_: [1])
    again = alive.next()
    assert again.number == 1
    assert again.values == job.values
    assert [row.state for row in alive.rows()] == ["failed", "running"]
    assert "no longer answered" in alive.rows()[0].reason


def test_a_search_of_other_settings_is_refused_with_both_digests(opened, tmp_path):
    opened("one", storage=tmp_path / "shared.db")
    with pytest.raises(ConfigError, match=rf"SHA-256 {'d' * 16} there, {'e' * 16} here"):
        opened("two", storage=tmp_path / "shared.db", digest="e" * 64)


def test_the_digest_is_of_what_decides_a_trial():
    base = study_digest({"data": 1}, options())
    assert base == study_digest({"data": 1}, options(trials=99, time="1h", parallel=3))
    assert base != study_digest({"data": 2}, options())
    assert base != study_digest({"data": 1}, options(sampler={"use": "random"}))


def test_a_damaged_file_is_named(opened, tmp_path):
    path = tmp_path / "study.db"
    path.write_bytes(b"not a database " * 100)
    with pytest.raises(StorageError, match=r"study\.db: file is not a database; .*remove it"):
        opened("one", storage=path)


def test_a_full_disk_is_one_sentence_and_the_search_goes_on(opened, tmp_path, monkeypatch):
    study = opened("one")
    job = study.next()
    with monkeypatch.context() as patch:
        patch.setattr(study._storage.database, "set_trial_intermediate_value", _full)
        with pytest.raises(StorageError, match="database or disk is full; free space"):
            study.report(job.number, 1, 0.5)
    assert not study.report(job.number, 1, 0.5)


def _full(*_):
    import sqlalchemy.exc

    raise sqlalchemy.exc.OperationalError("INSERT", {}, Exception("database or disk is full"))


@pytest.mark.parametrize(
    ("url", "error", "says"),
    [
        ("", ConfigError, "MEDSEG_TEST_STORAGE, which is not set"),
        ("no url", ConfigError, "holds no URL"),
        ("nothing+such://u:geheim@h/x", StorageError, r"nothing\+such://u:\*\*\*@h/x"),
        ("sqlite:////nowhere/at/all.db", StorageError, "unable to open database file"),
    ],
)
def test_a_database_out_of_reach_is_one_sentence_without_password(opened, monkeypatch, url, error, says):
    monkeypatch.setenv("MEDSEG_TEST_STORAGE", url)
    with pytest.raises(error, match=says) as caught:
        opened("one", storage_env="MEDSEG_TEST_STORAGE")
    assert "geheim" not in str(caught.value)


def test_a_missing_driver_names_the_package(opened, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.setenv("MEDSEG_TEST_STORAGE", "postgresql+psycopg://u:geheim@127.0.0.1:1/x")
    with pytest.raises(MissingPackageError, match=r"psycopg\[binary\]"):
        opened("one", storage_env="MEDSEG_TEST_STORAGE")


def test_missing_optuna_names_the_extra(monkeypatch):
    monkeypatch.setattr(storage.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingPackageError, match=r"pip install 'medseg\[search\]'"):
        storage.require_optuna()


def test_importances_need_some_trials(opened):
    study = opened("one", trials=5, sampler={"use": "random"})
    values = []
    while (job := study.next()) is not None:
        values.append(job.values["training.batch_size"] / 6)
        study.finish(job.number, complete(values[-1]))
        if len(values) < 5:
            assert study.importances() is None
    found = study.importances()
    assert set(found) == {"training.learning_rate", "training.loss", "training.batch_size"}
    assert sum(found.values()) == pytest.approx(1)
