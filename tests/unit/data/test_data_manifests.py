"""The manifests that the project ships: readable, without leaks, each with a card."""

from pathlib import Path

import pytest

from medseg.data.manifest import read_manifest
from medseg.data.splits import patients_in_several

FOLDER = Path(__file__).parents[3] / "data_manifests"
MANIFESTS = sorted(FOLDER.glob("*.csv"))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_manifest_and_card(path: Path):
    cases = read_manifest(path, root=Path("/data"), check_files=False)
    channels = {len(case.images) for case in cases}
    assert len(channels) == 1
    assert all(case.sha256 and case.sha256.count(";") + 1 in channels for case in cases)
    for parts in ([case.split for case in cases], [case.fold for case in cases]):
        known = {c.case_id: str(p) for c, p in zip(cases, parts, strict=True) if p is not None}
        assert len(known) in (0, len(cases))
        assert not patients_in_several(cases, known)
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    assert path.name in card
    assert "licence" in card.casefold()


def test_hippocampi_of_one_person_stay_together():
    cases = read_manifest(FOLDER / "hippocampus.csv", root=Path("/data"), check_files=False)
    assert len(cases) == 200
    people: dict[int, set[str]] = {}
    for case in cases:
        people.setdefault((int(case.case_id[-3:]) + 1) // 2, set()).add(case.patient_id)
    assert all(len(ids) == 1 for ids in people.values())
    assert len(set().union(*people.values())) == len(people) == 133


def test_the_files_are_those_of_the_checksums(shared_data: Path):
    from medseg.provenance import sha256_file

    for name in ("hippocampus", "mr_brats", "mr_spine", "ct_small", "driving"):
        case = read_manifest(FOLDER / f"{name}.csv", root=shared_data / name)[-1]
        assert case.sha256 == ";".join(sha256_file(path) for path in case.images)
