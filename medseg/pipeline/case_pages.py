"""The pages of the cases of a run: `report.html` in the folder of each, with `report.json` for later comparisons."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.data.manifest import Case
from medseg.errors import MedsegError, StorageError
from medseg.export.nifti import write_itksnap_labels
from medseg.pipeline import case_files, earlier
from medseg.pipeline.context import Context
from medseg.pipeline.lone_page import codes_of, images_of, model_facts, study_facts
from medseg.pipeline.predict import model_bundle
from medseg.pipeline.readers import image_reader, read_reference
from medseg.privacy import pseudonym, without_folders
from medseg.provenance import whole_file, write_json, write_text
from medseg.report.case_data import CasePage, Cohort, LogLine
from medseg.report.case_pictures import case_pictures, geometry_facts
from medseg.report.case_report import render_case
from medseg.report.hand_off import ITK_LABELS
from medseg.report.language import day, phrase, structure_name, text
from medseg.report.mosaic import Masks
from medseg.report.page import CaseReport, CohortReport
from medseg.report.viewer import case_viewer
from medseg.volume import Volume

PAGE, PDF = "report.html", "report.pdf"
MAX_LOG = 40


def write_pages(context: Context, report: CohortReport) -> int:
    """Write the page of every case that has a section; their number.

    Raises
    ------
    ConfigError
        The folder of earlier examinations, or the table of normal values, is not there or not such a thing.
    StorageError
        A file cannot be written.
    """
    work = _Work(context=context, report=report)
    count = 0
    for case in report.ordered:
        if not case.section:
            continue
        try:
            work.write(case)
            count += 1
        except StorageError:
            raise
        except MedsegError as err:
            context.reporter.note(f"{case.case_id}: no page of its own: {err}")
        context.kept_images.drop(case.case_id)
    return count


@dataclass(kw_only=True)
class _Work:
    """What the pages of a run share."""

    context: Context
    report: CohortReport

    @cached_property
    def cases(self) -> dict[str, Case]:
        return {case.case_id: case for case in self.context.cases}

    @cached_property
    def earlier(self) -> earlier.Earlier:
        options = self.context.config.report
        found = () if options.previous is None else earlier.read_results(options.previous)
        own = [
            earlier.Examination(
                case_id=case.case_id,
                patient=case.patient,
                date=self.date(case.case_id),
                folder=self.context.run.case_folder(case.case_id),
            )
            for case in self.report.cases
        ]
        return earlier.Earlier(given=found, own=tuple(own))

    @cached_property
    def sizes(self) -> Mapping[str, Mapping[str, float]]:
        """Structure -> case -> size, of what is not cut off."""
        return earlier.whole_sizes([case.record for case in self.report.cases])

    @cached_property
    def normal(self) -> Cohort | None:
        path = self.context.config.report.normal_values
        if path is None:
            return None
        values, count = earlier.read_sizes(path)
        name = text(self.context.config.report.language)["cohort.table"]
        return Cohort(name=name.format(count=count, file=path.name), values=values)

    def date(self, case_id: str) -> str:
        """Date of the examination, "" where the manifest has none."""
        case = self.cases.get(case_id)
        return "" if case is None else case.columns.get(self.context.config.report.date_column, "").strip()

    def cohort(self, case_id: str) -> Cohort | None:
        """What the sizes of a case are ranked against."""
        if self.normal is not None:
            return self.normal
        values = {
            name: [size for other, size in by_case.items() if other != case_id]
            for name, by_case in self.sizes.items()
        }
        count = len(self.report.cases) - 1
        if max(map(len, values.values()), default=0) < earlier.LEAST_COHORT:
            return None
        words = text(self.context.config.report.language)
        return Cohort(name=words["cohort.run"].format(count=count), values=values)

    def write(self, case: CaseReport) -> None:
        """Write the files of one case."""
        folder = self.context.run.case_folder(case.case_id)
        page = self.page(case)
        write_text(folder / PAGE, render_case(page))
        write_itksnap_labels(folder / ITK_LABELS, self.context.table)
        write_json(
            folder / earlier.FACTS,
            {
                "schema": "medseg.examination/1",
                "case_id": case.case_id,
                "patient": case.patient,
                "date": page.date,
            },
        )
        if self.context.config.report.pdf:
            from medseg.export.encapsulated_pdf import html_to_pdf

            made = html_to_pdf(render_case(page, paper=True))
            with whole_file(folder / PDF) as part:
                part.write_bytes(made)

    def page(self, case: CaseReport) -> CasePage:
        """All that the page of one case says."""
        context, report = self.context, self.report
        options = context.config.report
        known = self.cases.get(case.case_id)
        page = CasePage(
            case=replace(case, patient=known.patient_id) if options.identify and known else case,
            structures=report.structures,
            language=options.language,
            title=options.title or report.title,
            pipeline=report.pipeline,
            run=report.run,
            settings_sha256=report.settings_sha256,
            codes=codes_of(context.table),
            facts=self._facts(case),
            study=study_facts(case.record),
            date=self.date(case.case_id),
            cohort=self.cohort(case.case_id),
            previous=self.earlier.before(case.case_id, case.patient, self.date(case.case_id)),
            test_retest_percent=options.test_retest_percent,
            methods=report.methods,
            settings=report.settings,
            versions=report.versions,
            stages=report.stages,
            log=self._log(case),
            signoff=options.signoff,
        )
        return page if known is None else self._with_pictures(page, known)

    def _with_pictures(self, page: CasePage, case: Case) -> CasePage:
        context, folder = self.context, self.context.run.case_folder(case.case_id)
        try:
            read = partial(image_reader(context.config), case.images)
            volume = context.kept_images.image(case.case_id, read)
            label_map = case_files.read_mask_file(folder, context.table).reshape(volume.spatial_shape)
            reference = None if case.label is None else _reference(case, volume, context)
            maps = case_files.read_map(folder, "entropy", volume.spatial_shape)
        except StorageError:
            raise
        except MedsegError as err:
            no = f"No picture: {without_folders(str(err))}"
            return replace(page, case=replace(page.case, no_picture=no, picture=None, planes=()))
        masks = Masks(array=label_map, names=dict(enumerate(context.table.names[1:], start=1)))
        images = images_of(volume, predicted=masks, reference=reference, doubt=maps)
        page = replace(
            page,
            geometry=geometry_facts(volume, page.language),
            study_uid=volume.source.study_instance_uid if context.config.report.identify else "",
        )
        page = case_pictures(page, images)
        options = context.config.report
        viewer = case_viewer(page, images, option=options.viewer, max_bytes=options.viewer_size)
        return replace(page, viewer=viewer)

    @cached_property
    def _model_facts(self) -> list[tuple[str, str]]:
        record = model_bundle(self.context).record
        training, rows = record.training, []
        if training.cases:
            words = text(self.context.config.report.language)
            key = "trained.cases" if training.patients is None else "trained.patients"
            said = words[key].format(cases=training.cases, patients=training.patients)
            rows.append(("trained_on", f"{said} · {training.data}"))
        language = self.context.config.report.language
        dice = [m for m in record.metrics if m.metric == "dice"]
        if dice:
            # The metrics of groups of cases follow those of all.
            known = [m for m in dice if m.data == dice[0].data]
            said = ", ".join(f"{structure_name(language, m.structure)} {m.value:.3f}" for m in known[:6])
            data = phrase(language, dice[0].data) or dice[0].data
            rows.append(("validated", f"Dice {said} ({data})"))
        rows.append(("intended_use", record.intended_use))
        return rows

    def _facts(self, case: CaseReport) -> Sequence[tuple[str, str]]:
        record, report = case.record, self.report
        chosen = record.get("engine", {}).get("choices") or ()
        engine = ", ".join(dict.fromkeys(str(c.get("engine", "")) for c in chosen if isinstance(c, Mapping)))
        facts = [
            ("pipeline", f"{report.pipeline} · {report.settings_sha256[:8]}"),
            ("run", report.run),
            ("made", day(self.context.config.report.language, self.context.run.record["created"])),
            *model_facts(record),
            *self._model_facts,
            ("engine", engine or str(record.get("engine", {}).get("asked", ""))),
            ("threads", str(self.context.threads)),
        ]
        return [(key, without_folders(value)) for key, value in facts if value]

    def _log(self, case: CaseReport) -> tuple[LogLine, ...]:
        """Lines of the log on this case, and what the record notes."""
        path, wanted = self.context.run.path / "log.jsonl", pseudonym(case.case_id)
        lines = []
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                event = json.loads(line)
                if event.get("case", wanted) == wanted:
                    level = "W" if "fail" in event["event"] else "I"
                    more = " ".join(
                        f"{k} {v}" for k, v in event.items() if k not in ("time", "event", "case", "message")
                    )
                    lines.append(
                        LogLine(
                            time=event["time"], level=level, text=without_folders(f"{event['event']} {more}")
                        )
                    )
        notes = [LogLine(time=" " * 25, level="W", text=note) for note in case.record["notes"]]
        return (*lines[-MAX_LOG:], *notes)


def _reference(case: Case, volume: Volume, context: Context) -> Masks:
    """Reference as sets of classes; what is surely foreground but of no single label is named ""."""
    table = context.table
    read = partial(read_reference, case, volume, context.config, table)
    sets: NDArray[Any] = context.kept_images.reference(case.case_id, read)[0]
    names = {index: name for index, name in enumerate(table.names) if index > 0}
    names |= {i: "" for i, classes in enumerate(table.sets) if len(classes) > 1 and 0 not in classes}
    return Masks(array=np.asarray(sets), names=names)
