"""Where a study is kept: an SQLite file, or a database that machines share; what can go wrong with it."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import sqlite3
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.errors import ConfigError, MissingPackageError, StorageError
from medseg.search.options import SearchOptions

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from optuna.study import Study
    from optuna.trial import Trial

_LOG = logging.getLogger(__name__)
DATABASE = "study.db"
HEARTBEAT_S, GRACE_S, MAX_RETRIES = 30, 120, 3
# Seconds that a writer of SQLite waits for another one.
_BUSY_S = 60
_ATTEMPTS, _AGAIN_S = 5, 0.5


def require_optuna() -> None:
    """Check that Optuna is there.

    Raises
    ------
    MissingPackageError
        It is not installed.
    """
    if importlib.util.find_spec("optuna") is None:
        raise MissingPackageError(
            "search: the package optuna is not installed; pip install 'medseg[search]', "
            "or take the section search out"
        )


@dataclass(slots=True, kw_only=True, eq=False)
class StudyStorage:
    """An open database.

    Parameters
    ----------
    database : RDBStorage
    place : str
        What messages call it; holds no password.
    shared : bool
        Whether other runs may use it too; each then says, twice a minute, that its trials are alive.
    """

    database: RDBStorage
    place: str
    shared: bool
    _alive: dict[int, int] = field(default_factory=dict)
    _closing: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def beat(self, trial: Trial) -> None:
        """Say that a trial is alive, now and from now on until it rests."""
        if not self.shared:
            return
        self._alive[trial.number] = trial._trial_id
        self.database.record_heartbeat(trial._trial_id)
        if self._thread is None:
            self._thread = threading.Thread(target=self._keep_beating, name="search-heartbeat", daemon=True)
            self._thread.start()

    def rest(self, trial: Trial) -> None:
        """A trial ended."""
        self._alive.pop(trial.number, None)

    def give_back_stale(self, study: Study) -> None:
        """Trials of machines that no longer answer are failed and tried again by whoever asks next."""
        if self.shared:
            from optuna.storages import fail_stale_trials

            with quiet():
                fail_stale_trials(study)

    def close(self) -> None:
        """Stop the heartbeat and let go of the file."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        self.database.remove_session()
        self.database.engine.dispose()

    def _keep_beating(self) -> None:
        while not self._closing.wait(HEARTBEAT_S):
            for trial_id in list(self._alive.values()):
                try:
                    with storage_errors(self.place):
                        self.database.record_heartbeat(trial_id)
                except StorageError as err:
                    # The trial itself finds out when it next writes; a moment without a network passes.
                    _LOG.warning("%s", err)
        self.database.remove_session()


class _OwnFile(sqlite3.Connection):
    """An SQLite file that one run writes: whole after a kill, without waiting for the disk at each epoch.

    The write-ahead log is not for files on network drives, where shared ones lie.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.execute("PRAGMA journal_mode=WAL")
        self.execute("PRAGMA synchronous=NORMAL")


def open_storage(options: SearchOptions, folder: Path) -> StudyStorage:
    """Open, and make where it is not there, the database of a search.

    Raises
    ------
    ConfigError
        The variable of `storage_env` is not set, or holds no URL.
    MissingPackageError
        Optuna or the database's driver is not installed.
    StorageError
        The database cannot be reached, is damaged, or is of another version of Optuna.
    """
    require_optuna()
    import optuna
    from sqlalchemy.engine import URL

    # Its own messages go the way of ours.
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if options.storage_env is None:
        path = options.storage or folder / DATABASE
        _make_folder(path.parent)
        url, place = URL.create("sqlite", database=str(path)), str(path)
        connect: dict[str, Any] = {"timeout": _BUSY_S}
        if options.storage is None:
            connect["factory"] = _OwnFile
    else:
        url, connect = _url_of(options.storage_env), {}
        place = url.render_as_string(hide_password=True)
    shared = options.storage is not None or options.storage_env is not None
    with storage_errors(place), _explained_driver(place):
        database = _opened(url.render_as_string(hide_password=False), connect, shared=shared)
    return StudyStorage(database=database, place=place, shared=shared)


def _opened(url: str, connect: dict[str, Any], *, shared: bool) -> RDBStorage:
    """The database, its tables made where they are not there."""
    from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
    from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

    for left in reversed(range(_ATTEMPTS)):
        try:
            return RDBStorage(
                url,
                engine_kwargs={"connect_args": connect, "pool_pre_ping": True},
                heartbeat_interval=HEARTBEAT_S if shared else None,
                grace_period=GRACE_S if shared else None,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=MAX_RETRIES)
                if shared
                else None,
            )
        except (IntegrityError, OperationalError, ProgrammingError) as err:
            # Two runs that begin at the same time both make the tables; one of them is late.
            if left == 0 or not any(sign in str(err) for sign in ("UNIQUE", "duplicate", "already exists")):
                raise
            time.sleep(_AGAIN_S)
    raise RuntimeError("unreachable: the last attempt returns or raises")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise StorageError(f"cannot make the folder {folder}: {err.strerror}; change search.storage") from err


def _url_of(name: str) -> Any:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    text = os.environ.get(name, "")
    if not text:
        raise ConfigError(
            f"search.storage_env names the environment variable {name}, which is not set; set it to the URL of "
            "the database, such as postgresql+psycopg://user:password@host/name"
        )
    try:
        return make_url(text)
    except ArgumentError as err:
        raise ConfigError(
            f"the environment variable {name} (search.storage_env) holds no URL of a database; expected one "
            "such as postgresql+psycopg://user:password@host/name"
        ) from err


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leave out Optuna's remarks on what is experimental, and on heartbeats that it does not send itself."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", message="Heartbeat of storage is supposed to be used")
        yield


@contextlib.contextmanager
def _explained_driver(place: str) -> Iterator[None]:
    try:
        yield
    except ImportError as err:
        raise MissingPackageError(
            f"the driver of {place} is not installed; for PostgreSQL: pip install 'psycopg[binary]' and a URL "
            "that begins with postgresql+psycopg://"
        ) from err


@contextlib.contextmanager
def storage_errors(place: str) -> Iterator[None]:
    """Turn what Optuna and SQLAlchemy say about a database into one sentence without its password.

    Raises
    ------
    StorageError
    """
    from optuna.exceptions import OptunaError, StorageInternalError, UpdateFinishedTrialError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with quiet():
            yield
    except (StorageInternalError, SQLAlchemyError) as err:
        raise StorageError(f"the search cannot use {place}: {_cause(err)}; {_advice(_cause(err))}") from err
    except UpdateFinishedTrialError as err:
        raise StorageError(
            f"a trial in {place} was ended by another process, because this one did not answer for {GRACE_S} s; "
            "the same command goes on with the next trial"
        ) from err
    except RuntimeError as err:
        if isinstance(err, OptunaError) or "optuna" not in str(err).lower():
            raise
        raise StorageError(
            f"{place} was written by another version of Optuna: {str(err).splitlines()[0]}"
        ) from err


def _cause(err: BaseException) -> str:
    """The first line of what the driver itself said."""
    inner: BaseException = err
    while inner.__cause__ is not None:
        inner = inner.__cause__
    inner = getattr(inner, "orig", None) or inner
    lines = str(inner).strip().splitlines()
    return lines[0] if lines else type(inner).__name__


def _advice(cause: str) -> str:
    if "locked" in cause:
        return "another process holds it; wait for that one, or use a database that machines share"
    if "full" in cause or "I/O" in cause:
        return "free space on its disk; the same command then goes on"
    if "not a database" in cause or "malformed" in cause:
        return "the file is damaged; remove it to start the search anew"
    return "make it reachable and writable; the same command then goes on"
