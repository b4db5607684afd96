"""Program that reads one file with SimpleITK and writes it as NRRD; run in a process of its own.

The HDF5 library under SimpleITK is not made for hostile files: it may crash, hang or print. Here that
ends this process only. Arguments: input, output, largest number of values, names of ITK readers.
"""

from __future__ import annotations

import sys
from math import prod

import SimpleITK as sitk


def main(source: str, target: str, max_voxels: int, readers: list[str]) -> str:
    """Read, check, write; "" where all went well, else what is wrong."""
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reason = "no reader for this file"
    for name in readers:
        reader = sitk.ImageFileReader()
        reader.SetImageIO(name)
        reader.SetFileName(source)
        try:
            reader.ReadImageInformation()
        except RuntimeError as err:
            reason = str(err).strip().splitlines()[-1]
            continue
        size = (*(int(n) for n in reader.GetSize()), int(reader.GetNumberOfComponents()))
        if prod(size) > max_voxels or min(size) < 1:
            shown = " x ".join(str(n) for n in size)
            return f"the image has {shown} values, the limit is {max_voxels} (option max_voxels)"
        sitk.WriteImage(reader.Execute(), target, useCompression=False)
        return ""
    return reason


if __name__ == "__main__":
    problem = main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:])
    sys.stdout.write(problem[:300])
    sys.exit(1 if problem else 0)
