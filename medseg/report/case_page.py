"""The page of one case for paper and PDF: picture, measurements, flags, provenance; no scripts."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from medseg import __version__
from medseg.report.cohort import RESEARCH, check_colours
from medseg.report.page import Structure
from medseg.report.text import number, quantity_text


def render_case_page(
    record: Mapping[str, Any],
    *,
    structures: Sequence[Structure],
    picture_jpeg: bytes | None = None,
    notes: Sequence[str] = (),
) -> str:
    """One case as HTML for printing on A4; all that it shows is in the page.

    Numbers without a value are left out; a structure that is absent is said to be.

    Parameters
    ----------
    record : mapping
        measurements.json of the case.
    structures : sequence of Structure
        Colours of labels and regions.
    picture_jpeg : bytes or None
        Picture with contours.
    notes : sequence of str
        More sentences for the reader, besides those of the record.

    Raises
    ------
    ValueError
        A structure's colour is not "#rrggbb".
    """
    check_colours(structures)
    environment = Environment(
        loader=PackageLoader("medseg.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "quantity": quantity_text,
        "nice": lambda name: str(name).replace("_", " "),
    }
    style = (
        resources.files("medseg.report").joinpath("templates", "case_page.css").read_text(encoding="utf-8")
    )
    picture = None if picture_jpeg is None else base64.b64encode(picture_jpeg).decode("ascii")
    return environment.get_template("case_page.html.j2").render(
        record=record,
        structures=[
            (name, [(m, q) for m, q in item["quantities"].items() if q["value"] is not None])
            for name, item in record["measurements"]["structures"].items()
        ],
        colours={s.name: s.colour for s in structures},
        picture=picture,
        notes=[*record["notes"], *notes],
        style=Markup(style),
        research=RESEARCH,
        version=__version__,
    )
