"""How 3D Slicer and ITK-SNAP open an exported case."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from medseg.errors import MissingPackageError

Viewer = Literal["slicer", "itksnap"]
PROGRAMS: dict[Viewer, tuple[str, ...]] = {"slicer": ("Slicer",), "itksnap": ("itksnap", "ITK-SNAP")}
TITLES: dict[Viewer, str] = {"slicer": "3D Slicer", "itksnap": "ITK-SNAP"}
MASK, SEGMENTATION = "mask.nii.gz", "mask.seg.nrrd"
COLOURS, DESCRIPTIONS = "labels.ctbl", "labels.itksnap.txt"


def viewer_command(viewer: Viewer, folder: Path, *, images: Sequence[str], program: str = "") -> list[str]:
    """The command that opens one exported case.

    Parameters
    ----------
    viewer : {"slicer", "itksnap"}
    folder : Path
        Of the case; the label files lie beside it.
    images : sequence of str
        Names of its image files, one for each channel.
    program : str, optional
        File of the program; its usual name unless given.
    """
    start = program or PROGRAMS[viewer][0]
    paths = [str(folder / name) for name in images]
    if viewer == "itksnap":
        others = ["-o", *paths[1:]] if paths[1:] else []
        labels = str(folder.parent / DESCRIPTIONS)
        return [start, "-g", paths[0], *others, "-s", str(folder / MASK), "-l", labels]
    loads = [f"slicer.util.loadVolume({path!r})" for path in paths]
    loads.append(f"slicer.util.loadSegmentation({str(folder / SEGMENTATION)!r})")
    return [start, "--python-code", "; ".join(loads)]


def command_text(command: Sequence[str]) -> str:
    """A command as one types it; words with apostrophes, such as code, in double quotes where that is safe."""
    return " ".join(_quoted(word) for word in command)


def _quoted(word: str) -> str:
    plain = "'" in word and not any(mark in word for mark in '"$`\\!')
    return f'"{word}"' if plain else shlex.quote(word)


def find_program(viewer: Viewer) -> str:
    """Where the program lies.

    Raises
    ------
    MissingPackageError
        It is not on the search path.
    """
    found = next((path for name in PROGRAMS[viewer] if (path := shutil.which(name))), None)
    if found is None:
        raise MissingPackageError(
            f"{TITLES[viewer]} was not found ({' or '.join(PROGRAMS[viewer])} on PATH); install it or add its folder "
            "to PATH, or use --export alone: HOWTO.txt in the folder has the commands"
        )
    return found


def open_case(viewer: Viewer, folder: Path, *, images: Sequence[str], program: str) -> int:
    """Open a case and wait until the program is closed; its exit status."""
    command = viewer_command(viewer, folder.resolve(), images=images, program=program)
    return subprocess.run(command, check=False).returncode
