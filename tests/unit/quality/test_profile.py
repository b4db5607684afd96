"""Images that a drawn cohort of head-like volumes in HU, and of films, did not hold."""

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from medseg.quality.appearance import Look, look_of, turns
from medseg.quality.input_facts import input_facts
from medseg.quality.mirror import fit_mirror, mirror_vector
from medseg.quality.options import GateOptions
from medseg.quality.profile import InputProfile, fit_profile, profile_from_json, profile_to_json
from medseg.quality.profile_checks import check_profile
from medseg.volume import Volume

SHAPE, SPACING = (20, 26, 15), (2.0, 1.5, 3.0)


def body(seed: int, *, shape=SHAPE) -> np.ndarray:
    """Air around an ellipsoid of tissue with bone in front, and an organ on the left, in HU."""
    rng = np.random.default_rng(seed)
    x, y, z = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    cx, cy, cz = rng.normal(0, 0.03, 3)
    values = np.full(shape, -1000.0)
    values[(x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2 < 0.8] = 40.0
    values[(x - cx) ** 2 + (y - 0.6 - cy) ** 2 + (z - cz) ** 2 < 0.05] = 900.0
    values[(x + 0.4 - cx) ** 2 + (y - cy) ** 2 + (z + 0.4 - cz) ** 2 < 0.08] = 400.0
    return (values + rng.normal(0, 12, shape)).astype(np.float32)


def volume(seed: int, **changes) -> Volume:
    affine = np.diag([*SPACING, 1.0])
    made = Volume(
        array=body(seed)[None], affine=affine, spacing_mm=SPACING, spacing_origin="affine", modality="CT"
    )
    return replace(made, **changes)


@cache
def profile() -> InputProfile:
    found = fit_profile([input_facts(volume(seed)) for seed in range(60)], unit_matters=True)
    assert found is not None
    return found


def flagged(image: Volume, options: GateOptions | None = None) -> dict[str, str]:
    checks = check_profile(input_facts(image), profile(), options)
    return {check.name: check.finding.level for check in checks if check.finding}


def test_right_images_pass_every_check():
    outcomes = [check_profile(input_facts(volume(seed)), profile()) for seed in range(100, 120)]
    assert sum(check.outcome == "flagged" for checks in outcomes for check in checks) <= 2
    assert [check.name for check in outcomes[0]] == [
        "modality",
        "orientation",
        "field of view",
        "proportions",
        "values",
        "histogram",
        "appearance",
    ]
    assert all(check.outcome == "passed" for check in outcomes[0])


def test_the_order_in_which_axes_are_stored_makes_no_difference():
    right = volume(100)
    affine = right.affine @ np.array([[0, 0, -1, 19], [1, 0, 0, 0], [0, -1, 0, 14], [0, 0, 0, 1.0]])
    turned = np.ascontiguousarray(right.array.transpose(0, 2, 3, 1)[:, :, ::-1, ::-1])
    stored = replace(right, array=turned, affine=affine, spacing_mm=(1.5, 3.0, 2.0))
    one, two = input_facts(right), input_facts(stored)
    np.testing.assert_allclose(two.look.vector(), one.look.vector())
    np.testing.assert_allclose(two.values, one.values)
    assert two.measures() == pytest.approx(one.measures())
    assert flagged(stored) == flagged(right)


@pytest.mark.parametrize(
    ("image", "check", "level"),
    [
        (lambda: volume(100, modality="MR"), "modality", "refuse"),
        (lambda: volume(100, array=(body(100) + 1024)[None]), "values", "refuse"),
        (
            lambda: volume(100, array=np.clip((body(100) + 160) / 400 * 255, 0, 255)[None]),
            "values",
            "refuse",
        ),
        (lambda: volume(100, array=body(100)[None, ::-1]), "orientation", "review"),
        (lambda: volume(100, array=body(100)[None, :, :, ::-1]), "orientation", "review"),
        (lambda: volume(100, affine=None), "orientation", "review"),
        (lambda: volume(100, spacing_mm=(0.2, 0.15, 0.3)), "field of view", "review"),
        (lambda: volume(100, array=body(100)[None, :, :12]), "proportions", "review"),
        (lambda: volume(100, array=-body(100)[None]), "histogram", "review"),
        (lambda: volume(100, array=np.random.default_rng(0).random((1, *SHAPE))), "appearance", "refuse"),
    ],
)
def test_wrong_images_are_named(image, check, level):
    assert flagged(image())[check] == level


def test_checks_can_be_turned_off():
    options = GateOptions(off=("modality", "values"))
    names = [
        check.name for check in check_profile(input_facts(volume(100, modality="MR")), profile(), options)
    ]
    assert "modality" not in names
    assert "values" not in names


def test_a_model_that_tells_nothing_is_not_judged():
    checks = check_profile(input_facts(volume(100)), None)
    assert {(c.outcome, c.reason) for c in checks} == {
        ("not judged", "the model tells nothing of its training images")
    }
    assert fit_profile([input_facts(volume(seed)) for seed in range(19)]) is None


def test_values_without_a_common_unit_are_not_judged():
    def scaled(seed):
        factor = 10.0 ** np.random.default_rng(seed).uniform(0, 3)
        return input_facts(volume(seed, array=(body(seed) + 1000)[None] * factor))

    found = fit_profile([scaled(seed) for seed in range(30)], unit_matters=True)
    assert found is not None
    values = next(c for c in check_profile(scaled(99), found) if c.name == "values")
    assert values.outcome == "not judged"
    assert "no common unit" in values.reason


def test_modalities_that_say_nothing_and_kinds_of_radiographs():
    base = profile()
    films = replace(base, modalities={"DX": 3.0})
    for told, wanted in (("CR", "passed"), ("RG", "passed"), ("SC", "not judged"), ("US", "flagged")):
        check = check_profile(input_facts(volume(100, modality=told)), films)[0]
        assert (check.name, check.outcome) == ("modality", wanted)


def test_a_negative_counts_as_usual_only_where_training_showed_negatives():
    facts = [input_facts(volume(seed)) for seed in range(40)]
    negative = input_facts(volume(100, array=-body(100)[None]))
    for shown, wanted in ((False, "flagged"), (True, "passed")):
        found = fit_profile(facts, negatives=shown)
        assert found is not None
        again = profile_from_json(profile_to_json(found))
        for known in (found, again):
            outcomes = {c.name: c.outcome for c in check_profile(negative, known)}
            assert (outcomes["histogram"], outcomes["appearance"]) == (wanted, wanted)


def test_a_lateral_film_has_no_sides():
    film = Volume(array=np.random.default_rng(0).random((1, 50, 60)), patient_orientation=("A", "F"))
    facts = input_facts(film)
    assert not facts.frontal
    check = next(c for c in check_profile(facts, InputProfile()) if c.name == "orientation")
    assert check.finding is not None
    assert "no axis of the picture" in check.finding.text


@pytest.mark.parametrize(
    ("view", "wanted"), [("LL", "LL"), ("RLO", "RLO"), ("PA", ""), ("LLD", ""), ("", "")]
)
def test_a_view_from_the_side_is_told_by_its_header(view, wanted):
    film = Volume(array=np.random.default_rng(0).random((1, 50, 60)), header={"view_position": view})
    check = next(c for c in check_profile(input_facts(film), InputProfile()) if c.name == "orientation")
    said = "" if check.finding is None else check.finding.text
    assert f"the view is {wanted}," in said if wanted else not said


def test_a_model_of_lateral_films_takes_them():
    facts = [input_facts(volume(seed)) for seed in range(40)]
    lateral = [replace(one, frontal=False, view="LL") for one in facts]
    for training, wanted in ((facts, True), (lateral, False)):
        known = fit_profile(training)
        assert known is not None
        again = profile_from_json(profile_to_json(known))
        for profile_ in (known, again):
            check = next(c for c in check_profile(lateral[0], profile_) if c.name == "orientation")
            assert ("the view is LL" in (check.finding.text if check.finding else "")) == wanted


def test_round_trip_through_the_numbers_of_a_gate():
    written = json.loads(json.dumps(profile_to_json(profile(), "profile "), allow_nan=False))
    assert all(isinstance(v, float) for group in written.values() for v in group.values())
    again = profile_from_json({**written, "review": 1.0, "range found": {"low": 1.0}}, "profile ")
    assert again is not None
    for seed in (100, 101):
        for image in (volume(seed), volume(seed, array=body(seed)[None, :, ::-1])):
            one = check_profile(input_facts(image), profile())
            two = check_profile(input_facts(image), again)
            assert [(c.name, c.outcome) for c in one] == [(c.name, c.outcome) for c in two]
            for a, b in zip(one, two, strict=True):
                assert (a.measured is None) == (b.measured is None)
                if a.measured is not None:
                    assert b.measured == pytest.approx(a.measured, rel=1e-2, abs=1e-2)
    assert profile_from_json({"review": 1.0}, "profile ") is None


def test_look_of_a_ramp_is_free_of_unit_and_turns_with_the_image():
    ramp = np.broadcast_to(np.linspace(0, 1, 80)[:, None], (80, 60))[None]
    one, two = look_of(ramp, np.array([1 / 79, 0.0])), look_of(5000 * ramp - 7, np.array([5000 / 79, 0.0]))
    np.testing.assert_allclose(one.vector(), two.vector(), atol=1e-9)
    assert one.vector().shape == (45,)
    np.testing.assert_allclose(one.small[:, 0], np.linspace(0, 1, 40), atol=0.02)
    turned = one.turned(turns(2)["+j-i"])
    np.testing.assert_allclose(turned.small[0], one.small[::-1, 0])
    np.testing.assert_allclose(turned.grain, one.grain[::-1])
    assert len(turns(2)) == 7
    assert len(turns(3)) == 47


def test_mirror_vector_changes_sign_and_a_symmetric_axis_is_not_judged():
    rng = np.random.default_rng(0)
    looks = []
    for _ in range(40):
        small = rng.normal(0, 0.05, (40, 40))
        small[:, 4:12] += 0.5
        small[28:34, 20:30] += 1.0
        looks.append(Look(small=small, levels=np.zeros(5), grain=np.zeros(2)))
    mirrored = replace(looks[0], small=looks[0].small[::-1])
    np.testing.assert_allclose(mirror_vector(mirrored, 0), -mirror_vector(looks[0], 0))
    test = fit_mirror(looks[1:], looks[:1], 0)
    assert test is not None
    assert test.score(looks[0]) > 0 > test.score(mirrored)
    plain = [replace(look, small=rng.normal(0, 0.05, (40, 40))) for look in looks]
    assert fit_mirror(plain, (), 0) is None


def test_a_large_volume_is_looked_at_in_little_memory():
    import tracemalloc

    image = Volume(array=np.zeros((1, 256, 256, 200), np.int16), affine=np.eye(4), spacing_mm=(1.0, 1.0, 1.0))
    image.array[0, 60:200, 60:200] = 700
    tracemalloc.start()
    input_facts(image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6


def test_the_room_of_the_ranges_travels_and_counts():
    known = replace(profile(), room=7.5)
    again = profile_from_json(profile_to_json(known))
    assert again is not None
    assert again.room == 7.5
    cut = volume(100, array=body(100)[None, :, :12])
    outcomes = [
        next(check.outcome for check in check_profile(input_facts(cut), one) if check.name == "proportions")
        for one in (replace(profile(), room=1.25), replace(profile(), room=1e6))
    ]
    assert outcomes == ["flagged", "passed"]
