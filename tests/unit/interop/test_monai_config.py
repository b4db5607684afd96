"""Configurations of MONAI bundles are read as data."""

from __future__ import annotations

from pathlib import Path

import pytest

from medseg.errors import BundleError
from medseg.interop.monai_config import MonaiConfig, read_config, read_inference_config


def config(**values):
    return MonaiConfig(Path("inference.json"), values)


def test_references_lead_to_plain_values():
    found = config(
        sizes={"roi": [8, 16, 4], "names": ["a", "b"]},
        pixdim="@spacing",
        spacing=[1.5, 2.0],
        net={"_target_": "UNet", "roi": "@sizes::roi", "old": "@sizes#names#1", "_desc_": "$words"},
    )
    assert found.plain("pixdim") == [1.5, 2.0]
    assert found.plain("net") == {"_target_": "UNet", "roi": [8, 16, 4], "old": "b"}
    assert found.plain("absent") is None


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"net": {"classes": "$len([1, 2])"}}, r"net::classes: the expression .*--set net::classes=VALUE"),
        (
            {"net": {"classes": "@count"}, "count": "$__import__('os')"},
            r"count: the expression .*--set count=VALUE",
        ),
        ({"net": {"row": [1, "%other.json::x"]}}, r"net::row::1: the macro"),
        ({"net": {"a": "@nowhere"}}, "leads nowhere"),
        ({"net": "@other", "other": "@net"}, "in circles"),
    ],
)
def test_what_would_be_executed_is_refused_by_name(values, said):
    with pytest.raises(BundleError, match=said):
        config(**values).plain("net")


def test_values_can_be_set_in_their_places():
    before = config(net={"classes": "$f()", "row": [1, 2]}, pixdim="$g()")
    after = before.with_values({"net::classes": 3, "pixdim": [1.0], "net#row#1": 5})
    assert after.plain("net") == {"classes": 3, "row": [1, 5]}
    assert after.plain("pixdim") == [1.0]
    assert before.values["net"]["classes"] == "$f()"
    with pytest.raises(BundleError, match="nothing::there: there is no such place"):
        before.with_values({"nothing::there": 1})


def test_yaml_is_read_without_its_tags(tmp_path):
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "inference.yaml").write_text("a: [1, 2]\nb: '@a'\n")
    assert read_inference_config(tmp_path).plain("b") == [1, 2]
    path = tmp_path / "evil.yaml"
    path.write_text("a: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(BundleError, match="not valid YAML"):
        read_config(path)
    path.write_text("- 1\n")
    with pytest.raises(BundleError, match="expected keys"):
        read_config(path)
    with pytest.raises(BundleError, match="expected a MONAI bundle folder"):
        read_inference_config(tmp_path / "nowhere")
