"""The 3D viewer of a case page: NiiVue, the image and the masks as bytes in the page, opened by a click.

The page's Content-Security-Policy stays as it is but for two hashes, those of the script that opens the
viewer and of NiiVue: no address, no worker, no `eval`, no WebAssembly, no `blob:`. NiiVue's own lettering
and light maps are `data:` pictures, which the page allows anyway.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any, Literal

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from medseg.errors import LabelError
from medseg.report.case_data import CasePage, Section
from medseg.report.case_pictures import CaseImages
from medseg.report.case_report import json_block
from medseg.report.language import Language, structure_name, text
from medseg.report.niivue import VERSION, niivue
from medseg.report.page import Structure
from medseg.report.templating import plain_environment
from medseg.report.viewer_grid import PackedPair, pack

VIEWS = ("multi", "axial", "coronal", "sagittal", "solid")
_LEAST_VOXELS = 8
"""Along each axis; thinner stacks are seen whole in the mosaics."""


def wants_viewer(option: Literal["auto"] | bool, shape: Sequence[int]) -> bool:
    """Whether a page gets a viewer: a volume, by default one with at least 8 voxels along each axis."""
    if len(shape) != 3 or option is False:
        return False
    return option is True or min(shape) >= _LEAST_VOXELS


def case_viewer(
    page: CasePage, images: CaseImages, *, option: Literal["auto"] | bool, max_bytes: int
) -> Section | None:
    """The viewer of a case's page; None where it gets none.

    Raises
    ------
    StorageError
        The installed NiiVue is missing or not the released one.
    """
    volume = images.volume
    if not wants_viewer(option, volume.spatial_shape):
        return None
    return viewer_section(
        volume.array,
        images.predicted.array,
        gray=images.gray,
        structures=page.structures,
        affine=volume.affine,
        spacing_mm=volume.spacing_mm,
        max_bytes=max_bytes,
        language=page.language,
    )


def viewer_section(
    image: NDArray[Any],
    label_map: NDArray[Any],
    *,
    gray: Callable[[NDArray[Any]], NDArray[np.uint8]],
    structures: Sequence[Structure],
    affine: NDArray[np.float64] | None,
    spacing_mm: Sequence[float] | None,
    max_bytes: int = 8_000_000,
    language: Language = "en",
) -> Section:
    """The viewer of one volume and its masks.

    Parameters
    ----------
    image : (C, I, J, K) array
        Channels are averaged.
    label_map : (I, J, K) integer array
        Class indices: 0 background, then the labels of `structures` in their order.
    gray : callable
        Values -> 0..255 as the page displays them.
    structures : sequence of Structure
        Regions are left out.
    affine : (4, 4) float64 array or None
        Index to RAS+ mm; None where the file knows no patient: then the viewer shows no directions.
    spacing_mm : (float, float, float) or None
        Taken where there is no affine.
    max_bytes : int
        What image and masks may take in the page; they are made smaller for it, with a note.
        NiiVue takes another 1.06 MB.
    language : {"en", "zh"}

    Raises
    ------
    StorageError
        The installed NiiVue is missing or not the released one.
    """
    words = text(language)
    lengths = [*(spacing_mm or (1.0, 1.0, 1.0)), 1.0]
    grid = np.diag(lengths) if affine is None else np.asarray(affine, dtype=np.float64)
    try:
        pair = pack(image, label_map, gray=gray, affine=grid, max_bytes=max_bytes)
    except LabelError as err:
        said = Markup('<p class="m">{}</p>').format(words["viewer.left_out"].format(reason=err))
        return Section(html=said)
    options = _options(
        structures,
        language,
        known=affine is not None,
        measured=affine is not None or spacing_mm is not None,
        present={int(index) for index in np.unique(label_map)},
    )
    return Section(
        html=_html(pair, options, language),
        style=_asset("viewer.css"),
        scripts=(_asset("viewer.js"),),
        script_hashes=(niivue().csp_hash,),
    )


def _options(
    structures: Sequence[Structure], language: Language, *, known: bool, measured: bool, present: set[int]
) -> dict[str, Any]:
    """What the script must know."""
    words = text(language)
    labels = [structure for structure in structures if structure.kind == "label"]
    return {
        "known": known,
        "measured": measured,
        "structures": [
            {
                "index": index,
                "name": structure_name(language, label.name),
                "rgb": list(bytes.fromhex(label.colour[1:])),
            }
            for index, label in enumerate(labels, start=1)
            if index in present
        ],
        "text": {key: words[f"viewer.{key}"] for key in ("loading", "no_webgl", "failed", "none")},
    }


def _html(pair: PackedPair, options: Mapping[str, Any], language: Language) -> Markup:
    library = niivue()
    template = plain_environment().get_template("_viewer.html.j2")
    html = template.render(
        t=text(language),
        note=_note(pair, language),
        views=VIEWS,
        structures=[(row["index"], f"k{row['index'] - 1}", row["name"]) for row in options["structures"]],
        version=VERSION,
        licences=library.licences,
        options=json_block(options),
        volume=base64.b64encode(pair.image).decode("ascii"),
        mask=base64.b64encode(pair.mask).decode("ascii"),
        library=library.packed,
    )
    return Markup(html)


def _note(pair: PackedPair, language: Language) -> str:
    """How the viewer's grid relates to the image's."""
    shape, block = (" × ".join(map(str, numbers)) for numbers in (pair.shape, pair.factors))
    key = "viewer.full" if set(pair.factors) == {1} else "viewer.reduced"
    return text(language)[key].format(shape=shape, block=block)


def _asset(name: str) -> str:
    return (resources.files("medseg.report") / "templates" / name).read_text(encoding="utf-8")
