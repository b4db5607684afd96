"""A CT of 512 x 512 x 300 in and out of NIfTI: peak memory of a process of its own, beyond its imports."""

from __future__ import annotations

import gzip
import subprocess
import sys
import textwrap
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

PEAK = """
    import resource, sys
    from pathlib import Path
    import numpy as np
    from medseg.io.nifti import read_nifti
    from medseg.io.write_image import write_image
    from medseg.volume import Volume
    source = Path(sys.argv[1])
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    before = peak()
    volume = read_nifti(source)
    read = (peak() - before) / volume.array.nbytes
    written = peak()
    write_image(source.with_name("out.nii"), volume)
    print(read, (peak() - written) / volume.array.nbytes)
"""

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_reading_and_writing_take_little_more_memory_than_the_array(tmp_path: Path, name: str) -> None:
    array = np.zeros((512, 512, 300), np.int16, order="F")
    array[100:300, 60:200, ::3] = 1000
    nib.save(nib.Nifti1Image(array, np.diag([0.7, 0.7, 2.5, 1])), tmp_path / "a.nii")
    if name.endswith(".gz"):
        (tmp_path / name).write_bytes(gzip.compress((tmp_path / "a.nii").read_bytes(), compresslevel=1))
    command = [sys.executable, "-c", textwrap.dedent(PEAK), str(tmp_path / name)]
    read, written = map(float, subprocess.run(command, capture_output=True, check=True).stdout.split())
    assert read < 1.3
    assert written < 0.1
