"""The folder of one run: where it lies, what has been done in it, and who is working in it.

``<output>/<pipeline>/<time>-<short hash>/`` holds `run.json`, the resolved `pipeline.yaml`, `log.jsonl`
and what the stages write. The short hash is of the resolved settings, so the same command finds
its run again and goes on where that stopped.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medseg import provenance
from medseg.errors import StorageError
from medseg.privacy import safe_name

RUN_FILE = "run.json"
LOCK_FILE = ".lock"
FOLDS = "folds"
_POLL_S = 0.2


@dataclass(slots=True, kw_only=True)
class StageState:
    """What is known of a stage: the key of what it depended on, when it ran, what it found."""

    key: str = ""
    done: bool = False
    started: str = ""
    seconds: float = 0.0
    peak_ram_mb: float = 0.0
    summary: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, as written to run.json."""
        return {name: getattr(self, name) for name in self.__slots__}


class RunFolder:
    """Reads and writes the record of one run; every change is on disk before the method returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record: dict[str, Any] = {}
        if (path / RUN_FILE).exists():
            self.record = _read_record(path / RUN_FILE)

    @property
    def cases(self) -> Path:
        """Folder of the results by case."""
        return self.path / "cases"

    @property
    def cache(self) -> Path:
        """Folder of what can be made again: prepared arrays, synthetic studies."""
        return self.path / "cache"

    def case_folder(self, case_id: str) -> Path:
        """Folder of one case; its name is made safe."""
        return self.cases / safe_name(case_id)

    def start(self, *, pipeline: str, digest: str, settings: str, command: list[str]) -> None:
        """Write the record and the resolved settings, or note that a run goes on."""
        started = now()
        if not self.record:
            self.record = {
                "format": 1,
                "pipeline": pipeline,
                "settings_sha256": digest,
                "created": started,
                "stages": {},
                "inputs": {},
                "attempts": [],
            }
            provenance.write_text(self.path / "pipeline.yaml", settings)
        self.record["versions"] = provenance.versions()
        self.record["attempts"].append({"started": started, "command": command, "process": os.getpid()})
        self.save()

    def save(self) -> None:
        """Write run.json, whole."""
        provenance.write_json(self.path / RUN_FILE, self.record)

    def stage(self, name: str) -> StageState:
        """State of a stage; an empty one where it never ran."""
        return StageState(**self.record.get("stages", {}).get(name, {}))

    def set_stage(self, name: str, state: StageState) -> None:
        """Record the state of a stage."""
        self.record.setdefault("stages", {})[name] = state.to_json()
        self.save()

    def note(self, key: str, value: Any) -> None:
        """Record one fact of the run, such as the input hashes."""
        self.record[key] = value
        self.save()

    def log(self, event: str, **facts: Any) -> None:
        """Append one line to log.jsonl: time, event and numbers; callers pass no identifiers."""
        line = json.dumps({"time": now(), "event": event, **facts}, ensure_ascii=True, allow_nan=False)
        with (self.path / "log.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; a second one is told who has it. A dead owner's lock is free."""
        self.path.mkdir(parents=True, exist_ok=True)
        with held(self.path):
            self.sweep()
            yield

    def sweep(self) -> None:
        """Remove what a killed process left; folds have locks of their own and are not touched."""
        for path in self.path.iterdir():
            if path.is_dir() and path.name != FOLDS:
                provenance.sweep_parts(path)
        provenance.sweep_parts(self.path, deep=False)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[str]:
    """Hold a folder for this process; what its lock file says. A dead owner's lock is free.

    Raises
    ------
    StorageError
        Another process has it, the message says which and since when; or it cannot be written.
    """
    try:
        stream = (folder / LOCK_FILE).open("a+")
    except OSError as err:
        raise StorageError(f"cannot write in {folder}: {err.strerror or err}; change --output") from err
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            stream.seek(0)
            raise StorageError(
                f"{folder} is in use by {stream.read().strip() or 'another process'}; "
                "wait for it to end, or choose another --output"
            ) from err
        stream.truncate(0)
        text = f"process {os.getpid()} on {platform.node() or 'this machine'} since {now()}"
        stream.write(text)
        stream.flush()
        yield text


@contextlib.contextmanager
def only_one(output: Path, *, pipeline: str, waits: Callable[[], None]) -> Iterator[None]:
    """Let one process at a time look for the run of a pipeline and make it; others wait, and say so once.

    Parameters
    ----------
    output : Path
        Folder that runs are kept in.
    pipeline : str
    waits : callable
        Called where another process is first.
    """
    home = output / safe_name(pipeline)
    home.mkdir(parents=True, exist_ok=True)
    said = False
    with (home / LOCK_FILE).open("a+") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not said:
                    waits()
                said = True
                time.sleep(_POLL_S)
        yield


def find_or_new(output: Path, *, pipeline: str, digest: str) -> RunFolder:
    """The latest run of these settings in `output`, or a new one that nothing was written to yet.

    Raises
    ------
    StorageError
        The record of a run with this short hash is damaged.
    """
    home = output / safe_name(pipeline)
    short = digest[:8]
    candidates = sorted(home.glob(f"*-{short}")) if home.is_dir() else []
    for path in reversed(candidates):
        run = RunFolder(path)
        if run.record.get("settings_sha256") == digest:
            return run
    return RunFolder(home / f"{datetime.now():%Y%m%d-%H%M%S}-{short}")


def stage_key(name: str, *, settings: Mapping[str, Any], upstream: str, inputs: Any = None) -> str:
    """Hash of all that a stage depends on: its settings, the stage before it, input hashes, code version."""
    version = provenance.versions().get("medseg", "")
    return provenance.sha256_json([name, version, dict(settings), upstream, inputs])


def _read_record(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise StorageError(
            f"{path} cannot be read as a run record: {err}; remove the folder to start anew"
        ) from err
    if not isinstance(value, dict):
        raise StorageError(f"{path} is no run record; remove the folder to start anew")
    return value


def now() -> str:
    """The time, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
