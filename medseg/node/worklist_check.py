"""What can be found out about work lists before anything is started."""

from __future__ import annotations

from collections.abc import Mapping

from medseg.errors import ConfigError
from medseg.node.job_model import JobModel
from medseg.node.options import NodeConfig
from medseg.pacs.dicomweb_client import DicomwebClient

_DICOM = frozenset(
    {
        "dicom_seg",
        "dicom_seg_labelmap",
        "rtstruct",
        "measurement_sr",
        "presentation_state",
        "secondary_capture",
        "encapsulated_pdf",
    }
)
"""Exports that are DICOM objects, which alone can stand in an Output Information Sequence."""


def check_worklists(config: NodeConfig, models: Mapping[str, JobModel]) -> None:
    """Look at logins and certificates of work lists, and whether their items can be completed.

    Raises
    ------
    ConfigError
        A secret or certificate cannot be used; or a rule would have nothing to show for an item (PS3.4 table
        CC.2.5-3: COMPLETED requires outputs).
    """
    for source in config.worklists:
        for login in (source, *source.archives):
            try:
                DicomwebClient(login, timeout_s=1.0).close()
            except ConfigError as err:
                raise ConfigError(f"source {source.name}: {err}") from err
    asked = config.requested_rules()
    for rule in config.rules:
        if rule.name not in asked:
            continue
        shown = _DICOM.intersection(models[rule.name].exports)
        if rule.send_to:
            taken = {kind for name in rule.send_to for kind in config.destinations[name].kinds}
            shown &= taken
        if not shown:
            raise ConfigError(
                f"rule {rule.name}: work items ask for it, and it sends no DICOM object that they could name; add "
                "dicom_seg to its `exports`, or to `kinds` of a destination"
            )


def worklist_lines(config: NodeConfig) -> list[str]:
    """What is asked of which work list, for people."""
    return [
        f"work list {source.name}: {item.value} ({item.scheme}) asks for the rule {item.rule}"
        for source in config.worklists
        for item in source.workitems
    ]
