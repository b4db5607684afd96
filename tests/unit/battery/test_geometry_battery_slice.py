"""A spread of the geometry battery through medseg, quick enough for every run; all of it is in integration."""

from __future__ import annotations

import pytest
from geometry_battery import Case, run_case, some_cases
from toolchain import MEDSEG


@pytest.mark.parametrize("case", some_cases(40), ids=lambda case: case.name)
def test_the_tissue_is_where_it_was(case: Case):
    outcome = run_case(case, MEDSEG)
    assert outcome.as_expected, f"{outcome.status}: {outcome.detail}"
