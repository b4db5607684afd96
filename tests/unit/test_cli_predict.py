"""Options of `medseg predict` that list several things."""

from typer.testing import CliRunner

from medseg.cli import app


def test_an_option_that_is_given_twice_adds_to_the_first(monkeypatch, tmp_path):
    asked = {}

    def predict_folder(inputs, **options):
        asked.update(options)
        raise SystemExit(0)

    monkeypatch.setattr("medseg.pipeline.predict_folder.predict_folder", predict_folder)
    lists = ["--format", "nifti,png", "--format", "coco", "--recognise", "node", "--recognise", "mass"]
    CliRunner().invoke(app, ["predict", str(tmp_path), "-m", "any", "-o", str(tmp_path / "out"), *lists])
    assert (asked["formats"], asked["recognise"]) == ("nifti,png,coco", "node,mass")
