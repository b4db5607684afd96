"""Manifests: strict reading, all problems in one error, and a round trip."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.data.dicom_phantoms import asymmetric_phantom, write_series
from medseg.data.manifest import Case, read_manifest, write_manifest
from medseg.errors import ManifestError

HEADER = "case_id,patient_id,image,label,label_scheme,split,fold,sha256,site\n"
DIGEST = hashlib.sha256(b"x").hexdigest()


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "m.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refusal(folder: Path, text: str | bytes, **options) -> str:
    with pytest.raises(ManifestError) as caught:
        read_manifest(write(folder, text), **{"check_files": False, **options})
    return str(caught.value)


def test_every_column_arrives(tmp_path: Path):
    text = HEADER + f" c1 , p1, a/b.png,m.png,lung,VAL,3,{DIGEST.upper()}, north \n\nc2,p1,c.png,,,,,,\n"
    for name in ("a/b.png", "m.png", "c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    first, second = read_manifest(write(tmp_path, text))
    assert first == Case(
        case_id="c1",
        patient_id="p1",
        images=(tmp_path / "a" / "b.png",),
        label=tmp_path / "m.png",
        scheme="lung",
        split="validation",
        fold=3,
        sha256=DIGEST,
        columns={"site": " north "},
    )
    assert (second.label, second.scheme, second.split, second.fold, second.sha256) == (None,) * 5


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("case_id,patient_id,image\nc,p,a.nii;b.nii\n", ["a.nii", "b.nii"]),
        ("case_id,patient_id,image_1,image_0\nc,p,b.nii,a;x.nii\n", ["a;x.nii", "b.nii"]),
        ("image,patient_id,case_id\na.nii,p,c\n", ["a.nii"]),
    ],
)
def test_channels_in_one_column_or_several(tmp_path: Path, text, names):
    (case,) = read_manifest(write(tmp_path, text), check_files=False)
    assert [path.name for path in case.images] == names


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the file is empty"),
        ("\n\n", "the file is empty"),
        ("case_id,patient_id,image\n", "line 1: no cases below the header"),
        ("case_id,image\n", "line 1: no column patient_id (found: case_id, image)"),
        ("case_id,patientid,image\n", "no column patient_id, did you mean patientid?"),
        ("case_id;patient_id;image\n", "separated by commas here, not by semicolons"),
        ("case_id,patient_id,image,site,site\n", "line 1: the column site stands 2 times"),
        ("case_id,patient_id,image,image_0\n", "image and image_0.. say the same"),
        ("case_id,patient_id,image_0,image_2\n", "no column image_1"),
        ("case_id,patient_id,image\nc,p\n", "line 2: expected 3 fields as in the header, found 2"),
        ("case_id,patient_id,image\nc,p,a,b\n", "line 2: expected 3 fields as in the header, found 4"),
        ('case_id,patient_id,image\n"c,p,a\n', "line 2: cannot be read as CSV"),
        ('case_id,patient_id,image\n"c"x,p,a\n', "line 2: cannot be read as CSV"),
        ("case_id,patient_id,image\n,p,a\n", "line 2: case_id must be text"),
        ("case_id,patient_id,image\nc,,a\n", "line 2: patient_id is empty"),
        ("case_id,patient_id,image\nc,p,\n", "line 2: image is empty"),
        ("case_id,patient_id,image\nc,p,a;;b\n", "line 2: image 1 of 3 is empty"),
        ("case_id,patient_id,image\nc,p,a\nc,q,b\n", "line 3: case_id 'c' again, first in line 2"),
        (
            "case_id,patient_id,image\nCase,p,a\ncase,q,b\n",
            "line 3: case_id 'case' next to 'Case': both would be",
        ),
        ("case_id,patient_id,image\nx\x00y,p,a\n", "control characters"),
        ("case_id,patient_id,image,split\nc,p,a,tain\n", "found 'tain', did you mean train?"),
        ("case_id,patient_id,image,fold\nc,p,a,-1\n", "fold must be a whole number from 0, found '-1'"),
        ("case_id,patient_id,image,fold\nc,p,a,1.0\n", "fold must be a whole number"),
        ("case_id,patient_id,image,sha256\nc,p,a,abc\n", "sha256 must be 64 hex digits, found 'abc'"),
        (f"case_id,patient_id,image,sha256\nc,p,a;b,{DIGEST}\n", "sha256 must be 2 times 64 hex digits"),
        ("case_id,patient_id,image,label\nc,p,a,./a\n", "image and label are the same file"),
    ],
)
def test_problems_name_their_line(tmp_path: Path, text, problem):
    assert problem in refusal(tmp_path, text)


def test_a_quoted_line_break_does_not_shift_later_lines(tmp_path: Path):
    text = 'case_id,patient_id,image,note\na,p,x,"two\nlines"\nb,,y,\n'
    assert "line 4: patient_id is empty" in refusal(tmp_path, text)


def test_all_problems_in_one_error_the_first_fifty_written_out(tmp_path: Path):
    rows = "".join(f"c{n},p,no/{n}.png\n" for n in range(70))
    message = refusal(tmp_path, f"case_id,patient_id,image\n{rows}", check_files=True)
    assert "m.csv: 70 problems\n" in message
    assert message.count("does not exist") == 50
    assert message.endswith("... and 20 more")
    mixed = refusal(tmp_path, "case_id,patient_id,image,split,fold\nc,,a,tst,x\nc,p,,,\n")
    assert mixed.count("\n") == 5


def test_missing_files_and_folders_are_told_unless_left_to_the_checks(tmp_path: Path):
    text = "case_id,patient_id,image,label\nc,p,.,gone.png\n"
    message = refusal(tmp_path, text, check_files=True)
    assert "image" in message
    assert "is a folder" in message
    assert f"label {tmp_path / 'gone.png'} does not exist" in message
    assert len(read_manifest(write(tmp_path, text), check_files=False)) == 1


@pytest.mark.parametrize("image", ["../a.png", "x/../../a.png", "/etc/passwd"])
def test_root_confines_paths_and_without_root_they_are_as_written(tmp_path: Path, image):
    root = tmp_path / "root"
    root.mkdir()
    text = f"case_id,patient_id,image\nc,p,{image}\n"
    assert "leads out of root" in refusal(tmp_path, text, root=root)
    (case,) = read_manifest(write(tmp_path, text), check_files=False)
    assert case.images[0].is_absolute()


def test_absolute_path_inside_root_is_fine(tmp_path: Path):
    text = f"case_id,patient_id,image\nc,p,{tmp_path}/a.png\n"
    assert read_manifest(write(tmp_path, text), root=tmp_path, check_files=False)[0].images == (
        tmp_path / "a.png",
    )


def test_encodings(tmp_path: Path):
    text = "case_id,patient_id,image\nü,p,a\n"
    assert (
        read_manifest(write(tmp_path, b"\xef\xbb\xbf" + text.encode()), check_files=False)[0].case_id == "ü"
    )
    assert "line 2 is not UTF-8 (byte 0xfc)" in refusal(tmp_path, text.encode("latin-1"))
    with pytest.raises(ManifestError, match="cannot be read: No such file"):
        read_manifest(tmp_path / "none.csv")


def test_formulas_are_disarmed_in_the_file_and_whole_after_reading(tmp_path: Path):
    case = Case(
        case_id="=c", patient_id="@p", images=(tmp_path / "-a.png",), columns={"+site": "=1+1", "n": "-2.5"}
    )
    write_manifest(tmp_path / "m.csv", [case])
    assert (
        tmp_path / "m.csv"
    ).read_text() == "case_id,patient_id,image,'+site,n\n'=c,'@p,'-a.png,'=1+1,-2.5\n"
    assert read_manifest(tmp_path / "m.csv", check_files=False) == (case,)


names = st.text(
    alphabet=st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=12
).filter(lambda s: s == s.strip() and "/" not in s and s not in (".", ".."))  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_writing_and_reading_is_a_round_trip(tmp_path_factory, data):
    base = tmp_path_factory.getbasetemp() / "manifests"
    ids = data.draw(st.lists(names, min_size=1, max_size=4, unique_by=str.casefold))
    channels = data.draw(st.integers(1, 3))
    column = data.draw(names.filter(lambda n: n not in HEADER and not n.startswith("image")))
    cases = [
        Case(
            case_id=case_id,
            patient_id=data.draw(names),
            images=tuple(base / "in" / f"{n}{data.draw(names)}" for n in range(channels)),
            label=data.draw(st.none() | st.just(base.parent / "out" / "mask.png")),
            scheme=data.draw(st.none() | names),
            split=data.draw(st.sampled_from([None, "train", "validation", "test"])),
            fold=data.draw(st.none() | st.integers(0, 9)),
            sha256=data.draw(st.none() | st.just(";".join([DIGEST] * channels))),
            columns={column: data.draw(st.text(alphabet=st.characters(blacklist_categories=("Cs",))))},
        )
        for case_id in ids
    ]
    path = base / "m.csv"
    write_manifest(path, cases)
    assert list(read_manifest(path, check_files=False)) == cases


def test_a_file_name_that_a_manifest_cannot_hold_is_refused(tmp_path: Path):
    case = Case(case_id="c", patient_id="p", images=(tmp_path / "a.png ",))
    with pytest.raises(ManifestError, match="rename the file"):
        write_manifest(tmp_path / "m.csv", [case])
    assert not (tmp_path / "m.csv").exists()


def test_shipped_manifests_read(project: Path):
    for path in sorted((project / "data_manifests").glob("*.csv")):
        cases = read_manifest(path, check_files=False)
        assert cases
        assert path.with_suffix(".md").is_file(), "each manifest has its card"


def test_a_folder_stands_for_the_slices_of_its_volume(tmp_path: Path):
    voxels = asymmetric_phantom((9, 10, 8))[0]
    write_series(tmp_path / "ct" / "a", voxels, np.diag([-1.0, -1.0, 2.0, 1.0]), order="shuffled")
    text = "case_id,patient_id,image,series\nc,p,ct,\n"
    (case,) = read_manifest(write(tmp_path, text))
    assert [path.is_file() for path in case.images] == [True] * 8
    write_series(tmp_path / "ct" / "b", voxels, np.diag([-1.0, -1.0, 3.0, 1.0]), uid_root="2")
    assert "2 volumes, and nothing says which" in refusal(tmp_path, text, check_files=True)
    (case,) = read_manifest(write(tmp_path, text.replace("ct,\n", "ct,s2\n")))
    assert all(path.parent.name == "b" for path in case.images)
