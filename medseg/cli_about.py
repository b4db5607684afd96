"""`medseg models`, `schema` and `doctor`: what this installation has, takes and lacks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from medseg.cli_options import AsJson
from medseg.errors import ConfigError


def add_about_commands(app: typer.Typer) -> None:
    """Add the commands to the program."""
    for command in (models, schema, doctor):
        app.command()(command)


def models(as_json: AsJson = False) -> None:
    """List the models that come with medseg."""
    from medseg.models.bundle import list_bundles

    found = list_bundles()
    if as_json:
        print(json.dumps([bundle.describe() for bundle in found], indent=2))
        return
    for bundle in found:
        about = bundle.describe()
        print(f"{about['name']} {about['version']}  {about['description']}\n    licence: {about['licence']}")


def schema(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; stdout unless given.")
    ] = None,
    kind: Annotated[str, typer.Option("--for", help="Which settings: pipeline or node.")] = "pipeline",
) -> None:
    """Write the JSON Schema of a settings file, for editors: every key with its meaning, unit and default."""
    from medseg.config.editor_schema import schema_text
    from medseg.provenance import write_text

    if kind == "node":
        from medseg.node.options import NodeConfig

        text = schema_text(NodeConfig, kind=kind)
    elif kind == "pipeline":
        text = schema_text()
    else:
        raise ConfigError(f"--for {kind} is unknown; expected pipeline or node")
    if output is None:
        sys.stdout.write(text)
    else:
        write_text(output, text)


def doctor(as_json: AsJson = False) -> None:
    """Check this machine: packages, codecs, memory, disk; each problem with its fix."""
    from medseg.doctor import examine

    findings = examine()
    if as_json:
        print(json.dumps([f.to_json() for f in findings], indent=2))
    else:
        for finding in findings:
            print(f"  {finding.level:<5} {finding.text}")
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(4)
