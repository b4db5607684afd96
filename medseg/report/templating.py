"""How the templates of pages are read: everything is escaped, and no name is left undefined."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def environment(**filters: Callable[..., Any]) -> Environment:
    """Templates with the filters beside Jinja's own."""
    made = Environment(
        loader=PackageLoader("medseg.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= filters
    return made


@functools.cache
def plain_environment() -> Environment:
    """Templates without filters, kept: to compile one takes longer than to fill it in."""
    return environment()
