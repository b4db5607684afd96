"""A chest whose heart lies on the left is told from its mirror image, however the film is framed or stored."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from medseg.labels import Label, LabelTable
from medseg.quality.sides import (
    SideTest,
    check_sides_seen,
    fit_sides,
    side_test_from_json,
    side_test_to_json,
    side_vector,
)
from medseg.volume import Volume

TABLE = LabelTable(
    labels=(
        Label(name="lung_right", value=1, colour="#3aa0ff", side="right", pair="lung_left"),
        Label(name="lung_left", value=2, colour="#b684f5", side="left", pair="lung_right"),
    )
)


def film(seed, *, heart=0.06):
    """Two lungs about a heart that lies a little to the left, anywhere on the film, and their label map."""
    rng = np.random.default_rng(seed)
    i, j = np.mgrid[:96, :90] / 96.0
    ci, cj = 0.5 + rng.normal(0, 0.06), 0.45 + rng.normal(0, 0.04)
    size = 1.0 + rng.normal(0, 0.08)
    image = 0.7 + 0.02 * rng.standard_normal(i.shape) + rng.normal(0, 0.1) * (i - 0.5)
    labels = np.zeros(i.shape, np.uint8)
    for value, centre in ((1, -0.17), (2, 0.17)):
        inside = ((i - ci - centre * size) / 0.12) ** 2 + ((j - cj) / 0.27) ** 2 < size**2
        image[inside], labels[inside] = 0.25, value
    middle = ((i - ci - heart) / 0.1) ** 2 + ((j - cj - 0.12) / 0.1) ** 2 < size**2
    image[middle], labels[middle] = 0.75, 0
    return Volume(array=image.astype(np.float32)[None]), labels


def mirrored(volume, labels):
    """The film turned over, and what a network would find: the lung on the right of the picture is the left one."""
    return replace(volume, array=volume.array[:, ::-1].copy()), np.array([0, 2, 1], np.uint8)[labels[::-1]]


@cache
def fitted() -> SideTest:
    vectors = [side_vector(*film(seed), TABLE) for seed in range(150)]
    found = fit_sides(vectors, [side_vector(*film(seed), TABLE) for seed in range(150, 170)])
    assert found is not None
    return found


def outcome(volume, labels, **options):
    return check_sides_seen(side_vector(volume, labels, TABLE, **options), fitted())


def test_new_films_pass_and_mirrored_ones_are_flagged():
    films = [film(seed) for seed in range(200, 220)]
    assert [outcome(*one).outcome for one in films] == ["passed"] * 20
    checks = [outcome(*mirrored(*one)) for one in films]
    assert [check.outcome for check in checks] == ["flagged"] * 20
    assert checks[0].finding.level == "review"
    assert "mirrored" in checks[0].finding.text


def test_the_vector_changes_sign_where_the_image_is_mirrored():
    one, other = side_vector(*film(3), TABLE), side_vector(*mirrored(*film(3)), TABLE)
    # Voxels are looked at on a grid that need not lie symmetrically.
    assert np.corrcoef(one, -other)[0, 1] > 0.97


def test_what_the_header_says_of_the_sides_is_followed():
    volume, labels = film(4)
    turned = replace(volume, array=volume.array[:, ::-1].copy(), patient_orientation=("R", "F"))
    np.testing.assert_allclose(
        side_vector(turned, labels[::-1], TABLE), side_vector(volume, labels, TABLE), atol=0.15
    )
    assert outcome(turned, labels[::-1]).outcome == "passed"
    # A lateral film has no axis from side to side.
    assert side_vector(replace(volume, patient_orientation=("A", "F")), labels, TABLE) is None


def test_negatives_count_as_the_film_they_are_of():
    volume, labels = film(5)
    negative = replace(volume, array=1 - volume.array)
    assert outcome(negative, labels, negatives=True).outcome == "passed"
    np.testing.assert_allclose(
        side_vector(negative, labels, TABLE, negatives=True),
        side_vector(volume, labels, TABLE, negatives=True),
        atol=1e-5,
    )


def test_volumes_have_sides_too():
    rng = np.random.default_rng(0)
    image = rng.normal(0, 5, (1, 30, 20, 18))
    labels = np.zeros((30, 20, 18), np.uint8)
    labels[4:12, 5:15, 4:14], labels[18:26, 5:15, 4:14] = 2, 1
    image[0, 13:17, 8:12, 6:10] = 200
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    volume = Volume(array=image.astype(np.float32), affine=affine, spacing_mm=(2.0, 2.0, 2.0))
    one = side_vector(volume, labels, TABLE)
    assert one is not None
    assert one.shape == (2 * 3**3,)
    # The axis that leads left in LPS is stored the other way round.
    stored = replace(volume, array=volume.array[:, ::-1].copy(), affine=np.diag([-2.0, 2.0, 2.0, 1.0]))
    np.testing.assert_allclose(side_vector(stored, labels[::-1], TABLE), one, atol=0.3)


def test_what_cannot_be_judged_says_so():
    volume, labels = film(6)
    without = check_sides_seen(side_vector(volume, np.minimum(labels, 1), TABLE), fitted())
    assert (without.outcome, without.reason[:24]) == ("not judged", "no organ was found on bo")
    assert check_sides_seen(side_vector(volume, labels, TABLE), None).outcome == "not judged"
    lone = LabelTable(labels=(Label(name="heart", value=1, colour="#3aa0ff"),))
    assert side_vector(volume, labels, lone) is None


def test_sides_that_look_alike_or_too_few_images_make_no_test():
    alike = [side_vector(*film(seed, heart=0.0), TABLE) for seed in range(150)]
    assert fit_sides(alike) is None
    assert fit_sides([side_vector(*film(seed), TABLE) for seed in range(100)]) is None
    assert fit_sides([None] * 200) is None


def test_the_test_travels_as_plain_numbers():
    again = side_test_from_json({**side_test_to_json(fitted()), "review": 1.0})
    assert again is not None
    vector = side_vector(*film(7), TABLE)
    assert vector @ again.weights == pytest.approx(vector @ fitted().weights, rel=1e-3)
    assert again.limit == pytest.approx(fitted().limit, abs=1e-5)
    assert side_test_from_json({"review": 1.0}) is None
