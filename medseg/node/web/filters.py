"""Filters and pages of lists, as they stand in an address."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query

from medseg.node.view import DeliveryFilter, JobFilter, Span, StudyFilter

_Word = Annotated[str, Query(max_length=64)]
_Text = Annotated[str, Query(max_length=128)]


def _span(
    limit: Annotated[int, Query(ge=1, le=200)] = 50, offset: Annotated[int, Query(ge=0, le=100_000)] = 0
) -> Span:
    return Span(limit=limit, offset=offset)


def _jobs(state: _Word = "", rule: _Word = "", verdict: _Word = "", q: _Text = "") -> JobFilter:
    return JobFilter(state=state, rule=rule, verdict=verdict, text=q)


def _studies(state: _Word = "", q: _Text = "") -> StudyFilter:
    return StudyFilter(state=state, text=q)


def _deliveries(destination: _Word = "", state: _Word = "") -> DeliveryFilter:
    return DeliveryFilter(destination=destination, state=state)


WantedSpan = Annotated[Span, Depends(_span)]
WantedJobs = Annotated[JobFilter, Depends(_jobs)]
WantedStudies = Annotated[StudyFilter, Depends(_studies)]
WantedDeliveries = Annotated[DeliveryFilter, Depends(_deliveries)]
