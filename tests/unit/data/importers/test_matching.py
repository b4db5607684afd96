"""Matching of images and masks by stem: examples, and laws."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from medseg.data.importers.matching import WORDS, affix_pattern, match_stems, stem_key

NAMES = st.text("abAB01_- .", min_size=1, max_size=8)
DECORATED = st.builds(
    lambda head, name, tail: f"{head}{name}{tail}",
    st.sampled_from(["", "mask_", "Seg-", "img_"]),
    NAMES,
    st.sampled_from(["", "_mask", "_SEG", ".label", "_gt_mask"]),
)
STEMS = st.lists(DECORATED, unique=True, max_size=8)


def test_role_words_and_letter_case_do_not_count():
    found = match_stems(["Case_1", "img_2", "3", "sub/4"], ["case_1_MASK", "seg_2", "3-gt", "SUB/4_label"])
    assert found.pairs == (
        ("3", "3-gt"),
        ("Case_1", "case_1_MASK"),
        ("img_2", "seg_2"),
        ("sub/4", "SUB/4_label"),
    )
    assert (found.images, found.masks, found.ambiguous) == ((), (), ())


def test_a_word_alone_or_inside_a_name_is_kept():
    assert match_stems(["mask"], ["seg"]).pairs == ()
    assert match_stems(["segway_1"], ["way_1"]).pairs == ()
    assert match_stems(["a_mask_b"], ["a_b"]).pairs == ()


def test_own_words_may_be_stripped():
    assert match_stems(["p1_ct"], ["p1_tumour"]).pairs == ()
    assert match_stems(["p1_ct"], ["p1_tumour"], strip=["_CT", "tumour"]).pairs == (("p1_ct", "p1_tumour"),)


def test_folders_must_be_the_same():
    assert match_stems(["p1/ct"], ["p2/ct"]).pairs == ()


def test_two_masks_for_one_image_are_ambiguous():
    found = match_stems(["a", "b"], ["a", "a_mask", "b"])
    assert found.pairs == (("b", "b"),)
    assert found.ambiguous == ((("a",), ("a", "a_mask")),)


def test_two_and_two_of_one_key_are_ambiguous():
    found = match_stems(["a", "img_a"], ["a_mask", "seg_a"])
    assert (found.pairs, found.ambiguous) == ((), ((("a", "img_a"), ("a_mask", "seg_a")),))


def test_equal_names_pair_off_although_their_keys_are_one():
    found = match_stems(["lesion", "lesion_seg"], ["Lesion_seg", "lesion"])
    assert found.pairs == (("lesion", "lesion"), ("lesion_seg", "Lesion_seg"))


def test_accents_match_in_both_unicode_forms():
    assert match_stems(["caf\u00e9"], ["cafe\u0301_mask"]).pairs == (("caf\u00e9", "cafe\u0301_mask"),)


@given(STEMS, STEMS)
def test_each_file_is_in_exactly_one_place(images, masks):
    found = match_stems(images, masks)
    left = [i for i, _ in found.pairs] + list(found.images) + [i for g, _ in found.ambiguous for i in g]
    right = [m for _, m in found.pairs] + list(found.masks) + [m for _, g in found.ambiguous for m in g]
    assert sorted(left) == sorted(images)
    assert sorted(right) == sorted(masks)


@given(STEMS, STEMS)
def test_partners_have_one_key_and_the_unmatched_have_none_in_common(images, masks):
    found, affix = match_stems(images, masks), affix_pattern()
    assert all(stem_key(i, affix) == stem_key(m, affix) for i, m in found.pairs)
    assert not {stem_key(i, affix) for i in found.images} & {stem_key(m, affix) for m in found.masks}


@given(STEMS, STEMS, st.randoms())
def test_the_order_of_files_does_not_matter(images, masks, random):
    shuffled = random.sample(images, len(images)), random.sample(masks, len(masks))
    assert match_stems(*shuffled) == match_stems(images, masks)


@given(STEMS, STEMS)
def test_images_and_masks_may_change_places(images, masks):
    there, back = match_stems(images, masks), match_stems(masks, images)
    assert sorted((m, i) for i, m in there.pairs) == sorted(back.pairs)


@given(st.lists(st.text("xyz12", min_size=1, max_size=5), unique=True), st.sampled_from(WORDS))
def test_a_word_on_all_masks_changes_nothing(stems, word):
    decorated = [f"{stem}_{word}" for stem in stems]
    assert match_stems(stems, decorated).pairs == tuple((stem, f"{stem}_{word}") for stem in sorted(stems))


@given(NAMES)
def test_a_key_is_its_own_key_and_never_empty(stem):
    affix = affix_pattern()
    key = stem_key(stem, affix)
    assert key
    assert stem_key(key, affix) == key
