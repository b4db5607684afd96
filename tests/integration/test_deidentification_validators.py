"""Clean copies judged by programs that had no part in making them (dciodvfy, dcentvfy, dcmdump, check-seg)."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from medseg.deidentification.one_file import FileCleaner
from medseg.deidentification.options import ProfileOptions
from medseg.errors import InputError

pytestmark = pytest.mark.slow

KEY = b"0123456789abcdef0123456789abcdef"
#: A study and its series with one UID keep one.
AS_BEFORE = ("same value as StudyInstanceUID",)


def program(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


def said(*command: object) -> list[str]:
    done = subprocess.run([*map(str, command)], capture_output=True, timeout=60, check=False)
    return (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()


def errors(path: Path) -> Counter[str]:
    """Errors of dciodvfy without the values that they quote."""
    lines = said(program("dciodvfy"), "-new", path)
    return Counter(re.sub(r"<[^>]*\d{3,}[^>]*>", "<>", line) for line in lines if line.startswith("Error"))


def kinds(shared_data: Path) -> Iterator[Path]:
    """The first and the last file of every folder of cases."""
    for folder in sorted((shared_data / "dicom").iterdir()):
        if folder.is_dir() and folder.name != "broken_and_hostile":
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            yield from dict.fromkeys((files[0], files[-1]))


@pytest.mark.parametrize(
    "options",
    [{}, {"clean": ("descriptors", "structured_content", "graphics"), "retain": ("dates_modified",)}],
)
def test_valid_files_stay_valid(shared_data, tmp_path, options):
    cleaner, copy, judged = (
        FileCleaner(ProfileOptions(burned_in="accept", **options), (), KEY),
        tmp_path / "x",
        0,
    )
    for path in kinds(shared_data):
        try:
            copy.write_bytes(cleaner.clean(path).content)
        except InputError:
            continue
        added = errors(copy) - errors(path)
        assert [line for line in added if not any(known in line for known in AS_BEFORE)] == [], path
        faults = [
            line for line in said(program("dcmdump"), "-q", "-M", copy) if line.startswith(("E:", "F:"))
        ]
        before = [
            line for line in said(program("dcmdump"), "-q", "-M", path) if line.startswith(("E:", "F:"))
        ]
        assert len(faults) <= len(before), path
        judged += 1
    assert judged > 90


def test_a_study_stays_one(shared_data, tmp_path):
    cleaner = FileCleaner(ProfileOptions(), (), KEY)
    source = shared_data / "dicom/seg_liver"
    for path in sorted(source.iterdir()):
        (tmp_path / path.name).write_bytes(cleaner.clean(path).content)
    before, after = (
        [line for line in said(program("dcentvfy"), *sorted(folder.iterdir())) if "Error" in line]
        for folder in (source, tmp_path)
    )
    assert len(after) <= len(before)


def test_a_segmentation_still_lies_on_its_images(shared_data, shared_tools, tmp_path):
    cleaner, verdicts = FileCleaner(ProfileOptions(retain=("dates_full",)), (), KEY), []
    given = shared_data / "dicom/seg_liver"
    for path in sorted(given.iterdir()):
        folder = tmp_path / ("seg" if path.name == "liver.dcm" else "ct")
        folder.mkdir(exist_ok=True)
        (folder / path.name).write_bytes(cleaner.clean(path).content)
    images = tmp_path / "images"
    images.mkdir()
    for number in (1, 2, 3):
        shutil.copy(given / f"0{number}.dcm", images)
    for seg, folder in ((given / "liver.dcm", images), (tmp_path / "seg/liver.dcm", tmp_path / "ct")):
        lines = said(sys.executable, shared_tools / "check-seg", seg, folder)
        verdicts.append(Counter(line.split()[0].lower() for line in lines if line.split()))
    assert lines[-1].startswith("PASSED")
    given_words, clean_words = verdicts
    assert clean_words["fail"] + clean_words["failed"] <= given_words["fail"] + given_words["failed"]
    assert clean_words["ok"] >= given_words["ok"]
