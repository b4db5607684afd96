"""What a YAML may say about archives, and what is said of mistakes in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from medseg.config.problems import SettingsError
from medseg.config.yaml_model import load_yaml_model
from medseg.node.source_options import DicomwebSource, OrthancSource
from medseg.pacs.options import DicomwebDestination, PacsOptions

SECRET = {"env": "PACS_SECRET"}


def problems(folder: Path, destination: str) -> str:
    path = folder / "to.yaml"
    path.write_text(f"destinations:\n  archive: {destination}\n")
    with pytest.raises(SettingsError) as refused:
        load_yaml_model(path, PacsOptions)
    return str(refused.value)


@pytest.mark.parametrize("title", ["A\\\\B", "ABCDEFGHIJKLMNOPQ", " A", "A ", "", "Ä", "A\\n"])
def test_an_ae_title_is_explained_in_words(tmp_path: Path, title: str):
    told = problems(tmp_path, f'{{use: dimse, host: h, called_ae_title: "{title}"}}')
    assert "1 to 16 printable ASCII characters, no backslash, no blank at either end; found " in told
    assert "x21" not in told


@pytest.mark.parametrize("title", ["A", "ABCDEFGHIJKLMNOP", "MED SEG", "a~!"])
def test_ae_titles_of_the_standard_are_taken(tmp_path: Path, title: str):
    path = tmp_path / "to.yaml"
    path.write_text(f'destinations: {{a: {{use: dimse, host: h, called_ae_title: "{title}"}}}}\n')
    assert load_yaml_model(path, PacsOptions).config.destinations["a"].called_ae_title == title


@pytest.mark.parametrize("options", [DicomwebDestination, DicomwebSource, OrthancSource])
@pytest.mark.parametrize(
    ("login", "sentence"),
    [
        ({"user": "medseg"}, "go together"),
        ({"password": SECRET}, "go together"),
        ({"user": "medseg", "password": SECRET, "token": SECRET}, "not both"),
    ],
)
def test_who_logs_in_does_so_in_one_way(options, login, sentence: str):
    name = {} if options is DicomwebDestination else {"name": "pacs"}
    with pytest.raises(ValueError, match=sentence):
        options(url="http://127.0.0.1/dicom-web", **name, **login)
