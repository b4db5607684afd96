"""`medseg predict`: any mess of images in, one folder of results per image out; no YAML.

What it is made of: `cohort_inputs` finds the cases, `cohort_case` does one, `cohort_overlap`,
`cohort_processes` and `cohort_cluster` do many, `cohort_table` sums up.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medseg.errors import ConfigError, Interrupted
from medseg.io.dicom_frames import cores
from medseg.memory import resident_bytes
from medseg.models.bundle import Bundle
from medseg.pipeline import case_files
from medseg.pipeline.cohort_case import CaseOutcome, CaseWork
from medseg.pipeline.cohort_cluster import RayCluster, connected
from medseg.pipeline.cohort_crew import Crew
from medseg.pipeline.cohort_folder import cohort_folder
from medseg.pipeline.cohort_inputs import CohortCase, CohortInputs, find_cases
from medseg.pipeline.cohort_overlap import in_turn, overlapped
from medseg.pipeline.cohort_processes import LocalProcesses
from medseg.pipeline.cohort_settings import (
    CohortSettings,
    ceiling_bytes,
    export_kinds,
    in_language,
    known_device,
    known_engine,
    known_language,
)
from medseg.pipeline.cohort_table import write_cohort
from medseg.pipeline.preflight import look_ahead
from medseg.pipeline.progress import Reporter, SilentReporter
from medseg.pipeline.recognition import chosen_options
from medseg.pipeline.result import Result
from medseg.report.language import Language

_CLUSTER_TRIES = 3
"""On a cluster a machine that is switched off is no fault of the case."""


def predict_folder(
    inputs: Sequence[Path],
    *,
    model: str,
    output: Path,
    formats: str = "nifti,dicom-seg,png",
    device: str = "auto",
    threads: int | None = None,
    overwrite: bool = False,
    accept_unlike: bool = False,
    series: str | None = None,
    fold: int | None = None,
    max_ram: str | None = None,
    engine: str = "torch",
    fit_windows: bool = False,
    parallel: int = 1,
    cluster: str | None = None,
    recognise: str | None = None,
    language: str = "en",
    reporter: Reporter | None = None,
) -> Result:
    """Segment every image that the inputs hold.

    Cases that were finished with the same files, bundle and settings are kept. A result is there whole or not at
    all; a case that fails takes no other along.

    Parameters
    ----------
    inputs : sequence of Path
        Files or folders.
    model : str
        Shipped name, or folder of a bundle or of nnU-Net's results.
    output : Path
        One folder per image is made in it, with predictions.json, measurements.csv and report.html beside
        them, and tables of the report (report_*.csv and .json).
    formats : str
        Comma-separated names of `cohort_settings.FORMATS`; dicom-sr needs dicom-seg beside it.
    device, threads
        As in the settings of a pipeline. Threads are divided among the workers of a machine.
    overwrite : bool
        Whether images are done again that have a result of this model.
    accept_unlike : bool
        Whether images that the input gate refuses are segmented all the same.
    series : str or None
        Which DICOM volume, where a study holds several: key of `medseg inspect`, series number or UID;
        "all" takes each as a case of its own.
    fold : int or None
        Of an ensemble, the one network that never saw this fold; all of them unless given.
    max_ram : str or None
        Ceiling of memory of a machine, such as 2GB; its workers share it.
    engine : str
        What runs the network on a CPU; see `PredictOptions.engine`.
    fit_windows : bool
        Whether windows grow where fewer of them then cover an image; see `InferenceSettings.windows`.
    parallel : int
        Worker processes; on a cluster, of each machine.
    cluster : str or None
        Address of a Ray cluster, or auto.
    recognise : str or None
        Labels and regions whose targets are told one by one, or "all"; None: what the bundle says.
    language : str
        Of the page of the cohort: "en" or "zh".
    reporter : Reporter or None

    Returns
    -------
    Result
        Exit code 1 where some images failed; where all did, that of their errors, or 3.

    Raises
    ------
    MedsegError
        What concerns all images: command, bundle, disk, cluster.
    Interrupted
        The user stopped it; what is finished is kept.
    """
    settings = CohortSettings(
        model=model,
        output=output,
        kinds=in_language(export_kinds(formats), known_language(language)),
        fold=fold,
        device=known_device(device),
        threads=threads,
        overwrite=overwrite,
        accept_unlike=accept_unlike,
        max_bytes=ceiling_bytes(max_ram),
        engine=known_engine(engine),
        fit_windows=fit_windows,
    )
    if fit_windows and max_ram is not None:
        raise ConfigError("--fit-windows takes memory that --max-ram may not hold; leave one of them out")
    if parallel < 1:
        raise ConfigError(f"--parallel {parallel}: expected at least 1")
    if cluster is not None:
        settings, inputs = settings.anywhere(), [path.absolute() for path in inputs]
    bundle = settings.bundle()
    bundle.check_weights()
    found = find_cases(inputs, output=output, bundle=bundle, series=series)
    targets = chosen_options(recognise, bundle.recognise, settings.kinds, table=bundle.table)
    settings = replace(settings, images=max(1, len(found.cases)), recognise=targets)
    cohort = _Cohort(
        settings=settings,
        reporter=reporter or SilentReporter(),
        parallel=parallel,
        cluster=cluster,
        language=known_language(language),
    )
    return cohort.run(found, bundle)


@dataclass(slots=True, kw_only=True)
class _Cohort:
    """The cases of one command, and what became of those that are done."""

    settings: CohortSettings
    reporter: Reporter
    parallel: int
    cluster: str | None
    language: Language = "en"

    def run(self, found: CohortInputs, bundle: Bundle) -> Result:
        output, count = self.settings.output, len(found.cases)
        self.reporter.title(f"{bundle.name} {bundle.version} · {count} images · {output}")
        begin = time.monotonic()
        with cohort_folder(output) as lock_text:
            self.reporter.stage_started("predict", f"{count} images")
            outcomes = self._gather(found.cases, lock_text)
            seconds = time.monotonic() - begin
            done = sum(outcome.state != "failed" for outcome in outcomes)
            self.reporter.stage_done("predict", f"{done} of {count} images", seconds)
            result = write_cohort(
                self.settings, outcomes, skipped=found.skipped, bundle=bundle, seconds=seconds
            )
            self._write_page(found, outcomes, bundle, seconds)
            return result

    def _write_page(
        self, found: CohortInputs, outcomes: Sequence[CaseOutcome], bundle: Bundle, seconds: float
    ) -> None:
        # What draws pages is not needed where an error ends the command.
        from medseg.pipeline.predict_page import write_predict_page

        write_predict_page(
            self.settings,
            outcomes,
            found.cases,
            bundle=bundle,
            skipped=len(found.skipped),
            seconds=seconds,
            language=self.language,
        )

    def _gather(self, cases: Sequence[CohortCase], lock_text: str) -> list[CaseOutcome]:
        """One outcome for each case, in the order of the cases."""
        outcomes: dict[int, CaseOutcome] = {}
        try:
            with contextlib.closing(self._outcomes(cases, lock_text)) as coming:
                for outcome in coming:
                    outcomes[outcome.index] = outcome
                    self._tell(outcome, len(outcomes), len(cases))
        except KeyboardInterrupt as err:
            raise Interrupted(
                f"stopped after {len(outcomes)} of {len(cases)} images; the same command goes on with the others"
            ) from err
        return [outcomes[case.index] for case in cases]

    def _tell(self, outcome: CaseOutcome, done: int, count: int) -> None:
        self.reporter.advanced("predict", done, count, outcome.case_id)
        for text in (*outcome.notes, outcome.error):
            # That a picture gives no DICOM SEG is no news.
            if text and not (text.startswith(case_files.NO_SEG) and "not a DICOM file" in text):
                self.reporter.note(f"{outcome.case_id}: {text}")

    def _outcomes(self, cases: Sequence[CohortCase], lock_text: str) -> Generator[CaseOutcome, None, None]:
        settings = self.settings
        if self.cluster is not None:
            yield from self._on_cluster(self.cluster, cases, lock_text)
        elif self.parallel > 1 and len(cases) > 1:
            count = min(self.parallel, len(cases))
            share = settings.share(count, cores=cores(), taken_bytes=resident_bytes())
            site = LocalProcesses(settings=share, count=count)
            yield from Crew(site=site, note=self.reporter.note).outcomes(cases)
        elif settings.max_bytes is None and len(cases) > 1:
            yield from overlapped(cases, CaseWork(settings))
        else:
            # With a ceiling nothing is read ahead, so that there is one image at a time.
            work = CaseWork(settings)
            if settings.max_bytes is not None:
                look_ahead([case.image for case in cases], work.model, self.reporter)
            yield from in_turn(cases, work)

    def _on_cluster(
        self, address: str, cases: Sequence[CohortCase], lock_text: str
    ) -> Generator[CaseOutcome, None, None]:
        with connected(address) as ray:
            site = RayCluster(ray=ray, settings=self.settings, per_machine=self.parallel, lock_text=lock_text)
            crew = Crew(site=site, most_tries=_CLUSTER_TRIES, note=self.reporter.note, fresh=False)
            yield from crew.outcomes(cases)
