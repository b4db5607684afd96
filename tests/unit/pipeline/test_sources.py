"""Where the cases of a run come from, and what is said when they are not there."""

import pytest

from medseg.data.options import ManifestSource
from medseg.errors import StorageError
from medseg.pipeline.sources import find_cases


def test_a_root_that_is_missing_is_one_sentence(tmp_path):
    manifest = tmp_path / "hips.csv"
    manifest.write_text("case_id,patient_id,image\n" + "".join(f"c{n},p{n},c{n}.nii.gz\n" for n in range(90)))
    source = ManifestSource(path=manifest, root=tmp_path / "gone")
    with pytest.raises(StorageError, match=r"data\.source\.root: there is no folder .*gone; .*hips\.md"):
        find_cases(source, made_folder=tmp_path)
    (tmp_path / "gone").mkdir()
    cases, _ = find_cases(source, made_folder=tmp_path)
    assert len(cases) == 90
