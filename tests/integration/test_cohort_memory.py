"""The memory of `medseg predict` does not grow with the number of cases."""

from __future__ import annotations

import pytest
import small_cohorts as small

from medseg.memory import resident_bytes
from medseg.pipeline.predict_folder import predict_folder
from medseg.pipeline.progress import SilentReporter

pytestmark = pytest.mark.slow

COUNT = 40


class Watch(SilentReporter):
    """Notes the resident memory after each case."""

    def __init__(self):
        self.seen = []

    def advanced(self, name, done, total, text):
        self.seen.append(resident_bytes())


@pytest.mark.parametrize("arguments", [{}, {"max_ram": "8GB"}], ids=["overlapped", "in turn"])
def test_forty_cases_take_what_ten_take(tmp_path, arguments):
    # Windows of a size that does not let calls of the network take most of the time.
    bundle = small.write_small_bundle(tmp_path / "bundle", window=(48, 40, 32))
    for number in range(COUNT):
        # A megabyte each once it is read: a case that was kept would show.
        small.write_nifti(tmp_path / "in" / f"v{number:03d}.nii", small.small_image(number, (96, 80, 60)))
    watch = Watch()
    result = predict_folder(
        [tmp_path / "in"],
        model=str(bundle.folder),
        output=tmp_path / "out",
        formats="nifti",
        accept_unlike=True,
        reporter=watch,
        **arguments,
    )
    assert result.exit_code == 0
    early, late = max(watch.seen[: COUNT // 4]), max(watch.seen[-COUNT // 4 :])
    assert late - early < 12e6, (
        f"{(late - early) / 1e6:.1f} MB more after {COUNT} cases than after {COUNT // 4}"
    )
