"""One case of a cohort: is it finished, read it, segment it, write its folder; and what became of it.

The three steps are apart so that those of successive cases can overlap (`cohort_overlap`).
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from medseg.errors import ConfigError, EngineError, EnvironmentFailure, MedsegError, StorageError
from medseg.io.checksum import image_sha256
from medseg.models.bundle import Bundle
from medseg.pipeline import case_files
from medseg.pipeline.cohort_folder import whole_case
from medseg.pipeline.cohort_inputs import CohortCase, read_case
from medseg.pipeline.cohort_settings import CohortSettings
from medseg.pipeline.preflight import require_room
from medseg.provenance import sha256_json, versions
from medseg.volume import Volume

if TYPE_CHECKING:
    from medseg.pipeline.model import CaseResult, LoadedModel

T = TypeVar("T")

INTERNAL = 70
"""Exit code of an error that is ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseOutcome:
    """What became of a case.

    Parameters
    ----------
    index : int
        Its place in the table.
    case_id, folder : str
    state : str
        done now, kept from an earlier run, or failed.
    verdict : str
        Of the flags; "" where it failed.
    notes : tuple of str
        What a reader must know: files that could not be made, and the like.
    error : str
        One sentence; "" where it did not fail.
    exit_code : int
        That the error alone would end the program with.
    """

    index: int
    case_id: str
    folder: str
    state: Literal["done", "kept", "failed"]
    verdict: str = ""
    notes: tuple[str, ...] = ()
    error: str = ""
    exit_code: int = 0

    def to_json(self) -> dict[str, Any]:
        """As predictions.json lists it."""
        value: dict[str, Any] = {"case_id": self.case_id, "folder": self.folder}
        if self.state == "failed":
            return value | {"error": self.error, "exit_code": self.exit_code}
        return value | {"verdict": self.verdict, "notes": list(self.notes)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadCase:
    """A case that is in memory."""

    case: CohortCase
    key: str
    volume: Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentedCase:
    """A case whose result is in memory."""

    case: CohortCase
    key: str
    volume: Volume
    result: CaseResult


class CaseWork:
    """Does cases, step by step. The network is loaded when the first one needs it.

    Parameters
    ----------
    settings : CohortSettings
    """

    def __init__(self, settings: CohortSettings) -> None:
        self.settings = settings
        self.bundle: Bundle = settings.bundle()

    @cached_property
    def model(self) -> LoadedModel:
        """The network, ready."""
        return self.settings.load(self.bundle)

    def load(self) -> None:
        """Load the network now.

        Raises
        ------
        BundleError, ConfigError
            It cannot be.
        """
        _ = self.model

    @cached_property
    def _depends_on(self) -> list[Any]:
        """What every result depends on besides its image."""
        recognise = self.settings.recognise
        return [
            versions()["medseg"],
            self.bundle.weights_sha256,
            # Figures of its evaluation are written into a bundle after it was first used.
            sha256_json(self.bundle.record.to_json() | {"metrics": []}),
            sorted(self.settings.kinds),
            self.settings.accept_unlike,
            self.settings.engine,
            *(["windows fitted"] if self.settings.fit_windows else []),
            *([] if recognise is None else [recognise.model_dump(mode="json")]),
        ]

    def do(self, case: CohortCase) -> CaseOutcome:
        """All steps, one after the other.

        Raises
        ------
        StorageError
            The result cannot be written: the disk is full, which the next case would find, too.
        """
        read = self.read(case)
        segmented = self.segment(read) if isinstance(read, ReadCase) else read
        # Nothing that is large lives on while the next step works.
        del read
        return self.write(segmented) if isinstance(segmented, SegmentedCase) else segmented

    def read(self, case: CohortCase) -> ReadCase | CaseOutcome:
        """Read the image; the outcome instead where it is finished, or cannot be read."""
        return self._attempt(case, lambda: self._read(case))

    def segment(self, read: ReadCase) -> SegmentedCase | CaseOutcome:
        """Segment and measure a read image; the outcome where that fails.

        Raises
        ------
        BundleError, ConfigError
            The network cannot be loaded.
        EngineError
            The engine that was asked for does not run it as it should, whatever the case.
        """
        model, case = self.model, read.case

        def work() -> SegmentedCase:
            result = model.segment(read.volume, case_id=case.case_id)
            return SegmentedCase(case=case, key=read.key, volume=read.volume, result=result)

        return self._attempt(case, work)

    def write(self, segmented: SegmentedCase) -> CaseOutcome:
        """Write the folder of a case, whole.

        Raises
        ------
        StorageError
            It cannot be written.
        """
        return self._attempt(segmented.case, lambda: self._write(segmented), writes=True)

    def _read(self, case: CohortCase) -> ReadCase | CaseOutcome:
        if not self.settings.overwrite:
            record = case_files.finished_record(self.settings.output / case.folder)
            if record is not None and record["key"] == self._key(case, image_sha256(case.image.paths)):
                return CaseOutcome(**_named(case), state="kept", **_told(record))
        if self.settings.max_bytes is not None:
            require_room(case.image, self.model)
        volume = read_case(case, self.bundle)
        return ReadCase(case=case, key=self._key(case, volume.source.sha256), volume=volume)

    def _key(self, case: CohortCase, digest: str) -> str:
        part = "" if case.image.volume is None else case.image.volume.part
        return sha256_json([*self._depends_on, digest, part])

    def _write(self, segmented: SegmentedCase) -> CaseOutcome:
        case, volume, result, model = segmented.case, segmented.volume, segmented.result, self.model
        path = self.settings.output / case.folder
        facts: dict[str, Any] = {"case_id": case.case_id, "key": segmented.key}
        with whole_case(path, last=case_files.RECORD, own=case_files.NAMES) as folder:
            record = case_files.case_record(**facts, volume=volume, result=result, model=model)
            _, notes = case_files.export_case(
                folder,
                kinds=self.settings.kinds,
                volume=volume,
                label_map=result.label_map,
                table=model.table,
                record=record,
            )
            # The record that says "done" is written last.
            record = case_files.write_result(
                folder, **facts, volume=volume, result=result, model=model, export_notes=notes
            )
        return CaseOutcome(**_named(case), state="done", **_told(record))

    def _attempt(self, case: CohortCase, step: Callable[[], T], *, writes: bool = False) -> T | CaseOutcome:
        """Do a step; what goes wrong is the outcome of this case and of no other."""
        try:
            return step()
        except StorageError as err:
            if writes:
                raise
            return failure(case, str(err), err.exit_code)
        except EngineError:
            raise
        except ConfigError as err:
            return failure(case, self._shared(str(err)), err.exit_code)
        except MedsegError as err:
            return failure(case, str(err), err.exit_code)
        except OSError as err:
            return failure(case, f"cannot be read: {err.strerror or err}", EnvironmentFailure.exit_code)
        except Exception as err:
            return failure(case, *_unexpected(err))

    def _shared(self, text: str) -> str:
        """A sentence about the ceiling, in which the figure is that of one of several workers."""
        workers = self.settings.workers
        if workers == 1 or not text.startswith("max_ram"):
            return text
        return f"{text} (of each of {workers} workers; --max-ram is {workers} times as much, or take fewer workers)"


def failure(case: CohortCase, error: str, exit_code: int) -> CaseOutcome:
    """The outcome of a case that could not be done."""
    return CaseOutcome(**_named(case), state="failed", error=error, exit_code=exit_code)


def _unexpected(err: Exception) -> tuple[str, int]:
    """Sentence and exit code of an error that is not ours by intent."""
    # The allocator of PyTorch raises a plain RuntimeError on the CPU.
    if isinstance(err, MemoryError) or "can't allocate memory" in str(err) or "out of memory" in str(err):
        return (
            "the memory of the machine ran out; set --max-ram, or fewer --parallel workers",
            EnvironmentFailure.exit_code,
        )
    frames = traceback.extract_tb(err.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    # Its own text is left out: it may hold what a header says of a person.
    return f"internal error, please report it: {type(err).__name__}{where}", INTERNAL


def _named(case: CohortCase) -> dict[str, Any]:
    return {"index": case.index, "case_id": case.case_id, "folder": case.folder}


def _told(record: Mapping[str, Any]) -> dict[str, Any]:
    return {"verdict": record["verdict"], "notes": tuple(record["export_notes"])}
