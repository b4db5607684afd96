"""Claims jobs, has them done by worker processes, and tells the queue what became of them."""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.database import Database
from medseg.errors import EnvironmentFailure, MedsegError, StorageError
from medseg.io.dicom_frames import cores
from medseg.node import child, results
from medseg.node.audit import Audit
from medseg.node.child import Child, ChildDied, Limits, Stopped
from medseg.node.disk_space import is_out_of_space
from medseg.node.job_input import JobInput, job_input
from medseg.node.job_model import JobModel
from medseg.node.job_queue import Finished, Job, JobQueue
from medseg.node.result_check import ResultError, SourceStudy
from medseg.node.rule_options import JobOptions, ReviewOptions
from medseg.node.scheduler import read_header
from medseg.node.vault import SCRATCH, Vault

_log = logging.getLogger(__name__)
_LOOK_EVERY_S = 0.5
_OUR_MISTAKE = 70


class Workers:
    """A thread and a process for each job at a time.

    Parameters
    ----------
    options : JobOptions
    review : ReviewOptions
    models : mapping of str to JobModel
        By name of the rule.
    database : Database
    queue : JobQueue
    vault : Vault
    audit : Audit
    command : sequence of str
        Starts a worker process.
    """

    def __init__(
        self,
        options: JobOptions,
        review: ReviewOptions,
        models: Mapping[str, JobModel],
        *,
        database: Database,
        queue: JobQueue,
        vault: Vault,
        audit: Audit,
        command: Sequence[str] = child.COMMAND,
    ) -> None:
        self._options, self._review, self._models = options, review, models
        self._database, self._queue, self._vault, self._audit = database, queue, vault, audit
        self._command = command
        self._stop = threading.Event()
        self._ends_at = math.inf
        self._threads: list[threading.Thread] = []
        self.outcomes: Counter[str] = Counter()

    def start(self) -> None:
        """Begin to claim jobs."""
        for number in range(self._options.workers):
            thread = threading.Thread(target=self._work, args=(number,), name=f"worker-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def claim_no_more(self) -> None:
        """Begin nothing; a job that runs has `jobs.stop_grace` to end, else it goes back to the queue."""
        if not self._stop.is_set():
            self._ends_at = time.monotonic() + self._options.stop_grace
            self._stop.set()

    def stop(self, deadline_s: float) -> None:
        """Claim no more, and wait until the jobs have ended or gone back to the queue."""
        self.claim_no_more()
        end = time.monotonic() + deadline_s
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _work(self, number: int) -> None:
        limits = Limits(
            max_bytes=self._options.max_ram,
            max_seconds=self._options.max_time,
            threads=self._options.threads,
        )
        folder = self._vault.folder / SCRATCH / f"worker-{number}"
        process = Child(folder, limits, command=self._command)
        try:
            while not self._stop.is_set():
                if not self._one(process):
                    self._stop.wait(_LOOK_EVERY_S)
        finally:
            process.end()

    def _one(self, process: Child) -> bool:
        """Claim and do one job; whether there was one."""
        try:
            job = self._queue.claim()
        except StorageError as err:
            _log.error("no job can be claimed: %s", err)
            return False
        if job is None:
            return False
        try:
            outcome = self._do(job, process)
        except Stopped:
            outcome = self._told(lambda: self._stopped(job))
        except ResultError as err:
            reason = f"its result was refused: {err}"
            outcome = self._told(lambda: self._refuse(job, reason))
        except (ChildDied, StorageError) as err:
            outcome = self._failed_try(job, str(err))
        except Exception as err:
            _log.exception("job %d failed", job.id)
            outcome = self._failed_try(job, f"internal error, please report it: {type(err).__name__}")
        self.outcomes[outcome] += 1
        self._audit.record("job", outcome=outcome, job=job.id, rule=job.rule, study_uid=job.study_uid)
        return True

    def _failed_try(self, job: Job, reason: str) -> str:
        tell = self._queue.wait_for_room if is_out_of_space(reason) else self._queue.failed_try
        return self._told(lambda: tell(job, reason))

    def _told(self, tell: Callable[[], str]) -> str:
        """Tell the queue what became of a job as soon as the database takes it, or leave that to the next start."""
        while True:
            try:
                return tell()
            except StorageError as err:
                _log.error("what became of a job cannot be written: %s", err)
                if self._stop.wait(_LOOK_EVERY_S):
                    return "left"

    def _stopped(self, job: Job) -> str:
        if time.monotonic() < self._ends_at:
            return "taken_away"
        self._queue.put_back(job)
        return "put_back"

    def _do(self, job: Job, process: Child) -> str:
        if job.rule not in self._models:
            return self._refuse(job, f"the rule {job.rule} is no longer in the settings of the node")
        with self._database.read() as connection:
            found = job_input(connection, job.series_uid)
        if not found.paths:
            return self._refuse(job, "its instances were removed")
        if found.digest != job.input:
            self._queue.outdated(job)
            return "superseded"
        source = self._source(job, found)
        if two := source.two_patients():
            return self._refuse(job, two)
        with self._vault.plain(found.paths) as given, self._vault.scratch() as made:
            answer = process.ask(self._request(job, given, made), go_on=lambda: self._go_on(job))
            return self._judge(job, answer, made, source, process)

    def _go_on(self, job: Job) -> bool:
        if time.monotonic() >= self._ends_at:
            return False
        try:
            return self._queue.still_mine(job)
        except StorageError:
            # A database that is away for a while ends no job; `finish` asks again.
            return True

    def _request(self, job: Job, given: Path, made: Path) -> dict[str, Any]:
        threads = self._options.threads or max(1, cores() // self._options.workers)
        return {
            "name": f"job-{job.id}",
            "input": str(given),
            "output": str(made),
            "model": self._models[job.rule].to_json(),
            "threads": threads,
            "max_bytes": self._options.max_ram,
        }

    def _of_the_series(self, sentence: str) -> str:
        """What a job says, without the paths of its copies, which are gone when somebody reads it."""
        copies = re.escape(str(self._vault.scratch_folder)) + r"/[^/\s:]+"
        named = re.sub(
            rf"{copies}/(\d+)\.dcm", lambda found: f"instance {int(found[1]) + 1} of the series", sentence
        )
        named = re.sub(copies, "the series", named)
        return re.sub(r"\b(\d{6})\.dcm\b", lambda found: f"instance {int(found[1]) + 1}", named)

    def _judge(
        self, job: Job, answer: Mapping[str, Any], made: Path, source: SourceStudy, process: Child
    ) -> str:
        cases = answer.get("cases") or []
        failed = [case for case in cases if "error" in case] or ([answer] if "error" in answer else [])
        if failed:
            sentence, code = self._of_the_series(str(failed[0]["error"])), int(failed[0]["exit_code"])
            if code == EnvironmentFailure.exit_code and "memory" in sentence and process.walled:
                sentence = process.memory_text()
            if code in (EnvironmentFailure.exit_code, _OUR_MISTAKE):
                return self._failed_try(job, sentence)
            return self._refuse(job, sentence)
        done = results.gather(
            made,
            [str(case["folder"]) for case in cases],
            vault=self._vault,
            home=f"jobs/{job.id}/{job.attempts}",
            source=source,
            review=self._review,
            peak_bytes=process.peak_bytes,
        )
        try:
            with self._database.read() as connection:
                results.check_new(connection, done.files, self._vault)
        except ResultError:
            self._drop(done)
            raise
        return self._told(lambda: self._finish(job, done))

    def _refuse(self, job: Job, reason: str) -> str:
        self._queue.refuse(job, reason)
        return "failed"

    def _finish(self, job: Job, done: Finished) -> str:
        if not self._queue.finish(job, done):
            self._drop(done)
            return "taken_away"
        return "held" if done.held else "done"

    def _drop(self, done: Finished) -> None:
        for file in done.files:
            self._vault.remove(file.path)

    def _source(self, job: Job, found: JobInput) -> SourceStudy:
        """What the results of a job must refer to."""
        try:
            headers = [read_header(self._vault, path) for path in found.paths]
        except MedsegError as err:
            raise StorageError(str(err)) from err
        return SourceStudy.of(
            headers,
            study_uid=job.study_uid,
            series_uid=job.series_uid,
            sop_instance_uids=found.sop_instance_uids,
        )
