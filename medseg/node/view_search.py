"""What a person types into the search of the page -> conditions on jobs and studies."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Select, or_, select

from medseg.node.tables import instances, jobs, results, studies, study_numbers
from medseg.privacy import pseudonym

_PSEUDONYM = re.compile(r"P-([0-9A-F]{8})", re.IGNORECASE)
_UID = re.compile(r"[0-9]+(\.[0-9]+){2,}")
_JOB_NUMBER = re.compile(r"[0-9]{1,18}")
_FOR_OPERATORS = "UIDs, accession and patient numbers are searched by operators only."
_EXAMPLE = "a pseudonym such as P-1A2B3C4D"
Condition = ColumnElement[bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What was typed, without blanks at its ends, and by whom.

    Parameters
    ----------
    text : str
    digest : str
        Of the text as an accession or patient number, see `number_digest`.
    identify : bool
        Whether who asks may see and search what identifies a study.
    """

    text: str
    digest: str
    identify: bool

    def jobs(self, connection: Connection) -> tuple[Condition, str]:
        """Condition on jobs; a sentence where the text cannot be searched for."""
        nothing = jobs.c.id < 0
        if match := _PSEUDONYM.fullmatch(self.text):
            return jobs.c.study_uid.in_(_studies_called(connection, match[1])), ""
        if _UID.fullmatch(self.text):
            return (_jobs_about(self.text), "") if self.identify else (nothing, _FOR_OPERATORS)
        number = jobs.c.id == int(self.text) if _JOB_NUMBER.fullmatch(self.text) else nothing
        if self.identify:
            return or_(number, jobs.c.study_uid.in_(self._by_number())), ""
        return (
            number,
            "" if number is not nothing else f"The search takes a job number or {_EXAMPLE}. {_FOR_OPERATORS}",
        )

    def studies(self, connection: Connection) -> tuple[Condition, str]:
        """Condition on studies; a sentence where the text cannot be searched for."""
        if match := _PSEUDONYM.fullmatch(self.text):
            return studies.c.study_uid.in_(_studies_called(connection, match[1])), ""
        if not self.identify:
            return studies.c.study_uid == "", f"The search takes {_EXAMPLE}. {_FOR_OPERATORS}"
        return or_(studies.c.study_uid == self.text, studies.c.study_uid.in_(self._by_number())), ""

    def _by_number(self) -> Select[tuple[str]]:
        return select(study_numbers.c.study_uid).where(study_numbers.c.digest == self.digest)


def _jobs_about(uid: str) -> Condition:
    """Jobs of a study, a series, an instance, or that made an instance."""
    holding = select(instances.c.series_uid).where(instances.c.sop_instance_uid == uid)
    made = select(results.c.job_id).where(results.c.sop_instance_uid == uid)
    return or_(
        jobs.c.study_uid == uid,
        jobs.c.series_uid == uid,
        jobs.c.series_uid.in_(holding),
        jobs.c.id.in_(made),
    )


def _studies_called(connection: Connection, digits: str) -> list[str]:
    """Studies that a pseudonym stands for, be it that of the study or of its patient."""
    wanted = f"P-{digits.upper()}"
    known = connection.execute(select(studies.c.study_uid, studies.c.patient)).all()
    # Jobs outlive the rows of their studies.
    gone = connection.execute(select(jobs.c.study_uid).distinct()).scalars()
    uids = {str(uid) for uid in gone} | {str(uid) for uid, _ in known}
    by_patient = {str(uid) for uid, patient in known if str(patient).lower().startswith(digits.lower())}
    return sorted(by_patient | {uid for uid in uids if pseudonym(uid) == wanted})[:500]
