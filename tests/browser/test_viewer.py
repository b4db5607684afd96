"""The 3D viewer in Chromium with software WebGL2: it draws, obeys its controls, and gives way where it cannot."""

from __future__ import annotations

import base64
import gzip

import numpy as np
import pytest
from chromium import start_chromium
from numpy.typing import NDArray
from study_pages import HOSTILE, case_page, viewer

from medseg.report.case_report import render_case

pytestmark = [pytest.mark.slow, pytest.mark.browser]
CANVAS = "#viewer-canvas"


@pytest.fixture(scope="module")
def html():
    return render_case(case_page())


@pytest.fixture(name="viewer")
def _opened(open_page, html):
    page = open_page(html)
    page.click("#viewer-start")
    page.wait(lambda: page.one("#viewer").get_attribute("data-ready"))
    return page


def blue(picture: NDArray[np.uint8]) -> int:
    """Pixels of the colour of lung_right, in any brightness."""
    r, _, b = picture.astype(int).transpose(2, 0, 1)
    return int(((b > r + 60) & (b > 70)).sum())


def orange(picture: NDArray[np.uint8]) -> int:
    r, g, b = picture.astype(int).transpose(2, 0, 1)
    return int(((r > b + 60) & (r > g + 40)).sum())


def brighter(picture: NDArray[np.uint8], before: NDArray[np.uint8]) -> int:
    """Pixels that gained much light in every colour."""
    return int((picture.min(axis=2).astype(int) > before.min(axis=2).astype(int) + 40).sum())


def grey(picture: NDArray[np.uint8]) -> int:
    pixels = picture.astype(int)
    return int(((np.ptp(pixels, axis=2) < 12) & (pixels.mean(axis=2) > 60)).sum())


def test_it_draws_the_image_and_both_masks_and_asks_nobody(viewer):
    picture = viewer.picture(CANVAS)
    for colour in (blue, orange, grey):
        assert colour(picture) > 1000, colour.__name__
    assert viewer.one("#viewer-status").text == ""
    assert not viewer.one("#viewer-start").is_displayed()
    viewer.assert_quiet()


def test_every_view_shows_something_else(viewer):
    pictures = []
    for view in ("multi", "axial", "coronal", "sagittal", "solid"):
        viewer.click(f"[name=viewer-view][value={view}]")
        pictures.append(viewer.picture(CANVAS))
        assert grey(pictures[-1]) > 1000, view
    for first in range(len(pictures)):
        for second in range(first):
            assert (pictures[first] != pictures[second]).any(axis=2).mean() > 0.05
    viewer.assert_quiet()


def test_structures_opacity_outlines_and_image_are_switched(viewer):
    viewer.click("[name=viewer-view][value=axial]")
    whole = viewer.picture(CANVAS)
    viewer.click("#viewer-known")
    known = viewer.picture(CANVAS)
    assert brighter(known, whole) > 1000
    assert blue(known) == pytest.approx(blue(whole), rel=0.02)
    viewer.click("#viewer-known")
    assert (viewer.picture(CANVAS) == whole).all()
    viewer.click("[data-structure='1']")
    without = viewer.picture(CANVAS)
    assert blue(without) < 0.02 * blue(whole)
    assert orange(without) == pytest.approx(orange(whole), rel=0.02)
    viewer.click("[data-structure='1']")
    assert blue(viewer.picture(CANVAS)) == pytest.approx(blue(whole), rel=0.02)

    viewer.run(
        "const s = document.getElementById('viewer-opacity'); s.value = 0; s.dispatchEvent(new Event('input'))"
    )
    assert blue(viewer.picture(CANVAS)) == orange(viewer.picture(CANVAS)) == 0
    viewer.click("#viewer-outline")
    outlines = viewer.picture(CANVAS)
    assert 100 < blue(outlines) < 0.5 * blue(whole)
    viewer.click("#viewer-known")
    assert 30 < brighter(viewer.picture(CANVAS), outlines) < 0.5 * brighter(known, whole)
    viewer.click("#viewer-known")
    viewer.click("[data-structure='1']")
    assert blue(viewer.picture(CANVAS)) == 0
    viewer.click("#viewer-image")
    assert grey(viewer.picture(CANVAS)) < 0.1 * grey(outlines)
    viewer.assert_quiet()


def test_keys_move_the_crosshair_and_names_are_text(viewer):
    viewer.click("[name=viewer-view][value=axial]")
    canvas = viewer.one(CANVAS)
    before = viewer.picture(CANVAS)
    for _ in range(14):
        canvas.send_keys("\ue014")
    place = viewer.wait(lambda: viewer.one("#viewer-place").text)
    # On the screen's right lies the patient's left, and there the organ with the hostile name.
    assert place.startswith("L 3")
    assert "document.title='owned'" in place
    assert (viewer.picture(CANVAS) != before).any()
    canvas.send_keys("\ue00e")
    assert viewer.one("#viewer-place").text != place
    canvas.send_keys("v")
    canvas.send_keys("c")
    assert viewer.run("return document.querySelectorAll('img, bdi script, bdi img').length") == 0
    assert viewer.driver.title != "owned"
    viewer.assert_quiet()


def test_the_tab_key_leaves_the_canvas(viewer):
    viewer.one(CANVAS).send_keys("\ue004")
    assert viewer.run("return document.activeElement.id") != "viewer-canvas"


def test_nothing_is_unpacked_before_the_click(open_page, html):
    page = open_page(html)
    assert page.run("return [typeof globalThis.niivue, document.scripts.length]")[0] == "undefined"
    assert page.one("#viewer-start").is_displayed()
    assert not page.one(CANVAS).is_displayed()
    page.assert_quiet()


def test_another_script_in_its_place_is_refused(open_page, html):
    start, mark, rest = html.partition('id="viewer-library">')
    packed = base64.b64encode(gzip.compress(b"document.title = 'owned'; globalThis.niivue = {}")).decode()
    page = open_page(start + mark + packed + "</script>" + rest.partition("</script>")[2])
    page.click("#viewer-start")
    said = page.wait(
        lambda: page.one("#viewer-status").text.partition("(")[2] and page.one("#viewer-status").text
    )
    assert said.startswith("The 3D viewer could not start; the slices above show the same masks.")
    assert page.driver.title != "owned"
    assert "Content Security Policy" in " ".join(page.watched().problems)


def test_without_webgl2_one_sentence_says_so(open_page, html, tmp_path):
    driver = start_chromium(tmp_path / "profile", "--disable-3d-apis")
    try:
        page = open_page(html, driver=driver)
        page.click("#viewer-start")
        said = "The 3D viewer needs WebGL2, which this browser does not offer; the slices above show the same masks."
        assert page.wait(lambda: page.one("#viewer-status").text) == said
        assert not page.one(CANVAS).is_displayed()
        assert page.run("return document.querySelectorAll('.film').length") >= 3
        page.assert_quiet()
    finally:
        driver.quit()


def test_without_scripts_one_sentence_says_so(open_page, html, chromium):
    chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page = open_page(html)
        assert page.one("#viewer-status").text.startswith("The 3D viewer needs scripts")
        assert not page.one("#viewer-start").is_displayed()
    finally:
        chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_chinese_pages_have_a_chinese_viewer(open_page):
    page = open_page(render_case(case_page(language="zh", viewer=viewer(language="zh"))))
    assert page.one("#viewer-start").text == "打开三维查看器"
    assert HOSTILE[:9] in page.one("body").text
