import numpy as np
import pytest
from PIL import Image

from medseg.errors import GeometryError, LabelError
from medseg.export.picture import display_gray, display_size, write_mask_png, write_overlay_png
from medseg.labels import Label, LabelTable
from medseg.volume import Volume


def ramp(columns=200, rows=100, **facts) -> Volume:
    """Gray values that rise along a row from 0 to 1000."""
    line = np.linspace(0, 1000, columns, dtype=np.float32)
    return Volume(array=np.repeat(line[None, :, None], rows, axis=2), **facts)


def test_mask_has_rows_and_columns_and_values(tmp_path, table, label_map):
    write_mask_png(tmp_path / "mask.png", label_map, table)
    picture = Image.open(tmp_path / "mask.png")
    assert picture.size == (53, 61)
    assert picture.mode == "L"
    np.testing.assert_array_equal(np.asarray(picture).T, np.array([0, 1, 2, 9])[label_map])


def test_mask_with_large_values_has_sixteen_bits(tmp_path, label_map):
    def table(value):
        return LabelTable(
            labels=(
                Label(name="a", value=5, colour="#ff0000"),
                Label(name="b", value=value, colour="#00ff00"),
            )
        )

    write_mask_png(tmp_path / "mask.png", label_map, table(40000))
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "mask.png")).T, np.array([0, 5, 40000])[label_map]
    )
    with pytest.raises(LabelError, match="up to 65535, the label table has 70000"):
        write_mask_png(tmp_path / "mask.png", label_map, table(70000))


def test_contour_lies_on_the_border_of_the_label(tmp_path, table):
    label_map = np.zeros((200, 100), dtype=np.uint8)
    label_map[50:120, 20:80] = 1
    write_overlay_png(tmp_path / "o.png", ramp(), label_map, table, max_side=1000)
    pixels = np.asarray(Image.open(tmp_path / "o.png")).astype(int)
    # Five display pixels per image pixel: columns 250 to 600, rows 100 to 400.
    near = np.abs(pixels[:500] - [0x3A, 0xA0, 0xFF]).sum(axis=2) < 12
    rows, columns = np.nonzero(near)
    assert abs(columns.min() - 250) <= 2
    assert abs(columns.max() - 600) <= 2
    assert abs(rows.min() - 100) <= 2
    assert abs(rows.max() - 400) <= 2
    assert not near[150:350, 280:580].any()
    # The light fill: a little of the colour inside, none outside.
    assert pixels[250, 400, 2] > pixels[250, 400, 0]
    assert len(set(pixels[250, 700])) == 1


def test_legend_lies_below_and_names_what_is_missing(tmp_path, table):
    label_map = np.zeros((200, 100), dtype=np.uint8)
    label_map[50:120, 20:80] = 2
    write_overlay_png(tmp_path / "o.png", ramp(), label_map, table, max_side=1000)
    picture = Image.open(tmp_path / "o.png")
    assert picture.width == 1000
    assert picture.height > 500
    legend = np.asarray(picture)[500:].reshape(-1, 3)
    for label in table.labels:
        colour = [int(label.colour[k : k + 2], 16) for k in (1, 3, 5)]
        assert (legend == colour).all(axis=1).any()


def letter(path, side) -> np.ndarray | None:
    """The pale glyph in the middle of the left or right edge of a black picture, cut to its box."""
    pixels = np.asarray(Image.open(path).convert("L"))[200:300]
    pale = (pixels[:, :120] if side == "left" else pixels[:, -120:]) > 150
    if not pale.any():
        return None
    rows, columns = np.nonzero(pale)
    return pale[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def test_sides_are_written_where_they_are_known_only(tmp_path, table):
    label_map = np.zeros((200, 100), dtype=np.uint8)
    facts = {
        "array": np.zeros((1, 200, 100), np.float32),
        "header": {"window_center": "1", "window_width": "1"},
    }
    glyphs = {}
    for name, orientation in (("unknown", None), ("usual", ("L", "F")), ("mirrored", ("R", "F"))):
        film = Volume(**facts, patient_orientation=orientation)
        write_overlay_png(tmp_path / "o.png", film, label_map, table, max_side=1000)
        glyphs[name] = (letter(tmp_path / "o.png", "left"), letter(tmp_path / "o.png", "right"))
    assert glyphs["unknown"] == (None, None)
    right, left = glyphs["usual"]
    # A leg of the L is all that its upper right lacks; an R has its bow there.
    assert not left[: len(left) // 3, left.shape[1] // 2 :].any()
    assert right[: len(right) // 3, right.shape[1] // 2 :].any()
    assert glyphs["mirrored"][0].shape == left.shape
    assert glyphs["mirrored"][1].shape == right.shape
    assert right.shape != left.shape


def test_gray_follows_the_window_or_the_percentiles():
    image = ramp(header={"window_center": "500", "window_width": "200"})
    gray = display_gray(image)
    assert gray.shape == (200, 100)
    assert (gray[:80] == 0).all()
    assert (gray[-79:] == 255).all()
    free = display_gray(ramp())
    assert free[0, 0] == 0
    assert free[-1, 0] == 255
    assert 120 < free[100, 0] < 136
    # A window beside all values would show nothing.
    np.testing.assert_array_equal(
        display_gray(ramp(header={"window_center": "9000", "window_width": "2"})), free
    )


def test_constant_image_is_shown_without_a_fault():
    assert display_gray(Volume(array=np.full((1, 5, 4), 7, np.float32))).max() == 0


def test_pixels_that_are_not_square_are_shown_as_in_the_patient():
    assert display_size(ramp(200, 100), max_side=1000) == (1000, 500)
    assert display_size(ramp(200, 100, spacing_mm=(0.1, 0.4)), max_side=1000) == (500, 1000)


def test_volumes_and_other_grids_are_refused(tmp_path, table):
    deep = Volume(array=np.zeros((1, 4, 4, 4), np.float32))
    with pytest.raises(GeometryError, match="an image of two axes"):
        write_overlay_png(tmp_path / "o.png", deep, np.zeros((4, 4, 4), np.uint8), table)
    with pytest.raises(GeometryError, match=r"found \(200, 100\) and \(100, 200\)"):
        write_overlay_png(tmp_path / "o.png", ramp(), np.zeros((100, 200), np.uint8), table)
    with pytest.raises(GeometryError, match="an image of two axes"):
        write_mask_png(tmp_path / "o.png", np.zeros((4, 4, 4), np.uint8), table)
