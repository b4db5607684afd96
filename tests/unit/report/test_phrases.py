"""Sentences that checks and metrics make have words in every language, read from the code that makes them."""

import ast
from pathlib import Path

import pytest

import medseg.quality
from medseg.evaluation.definitions import DEFINITIONS
from medseg.report.language import LANGUAGES, phrase

OTHERS = [name for name in LANGUAGES if name != "en"]
# Sentences that are made of parts elsewhere: what stands in the code -> what comes out of it.
MADE_OF_PARTS = {
    "{} {}": (
        "liver changes abruptly from slice k = 3 to 4",
        "liver is missing in 2 slices after k = 3 and goes on behind them",
    ),
    "is missing in {} slices after {} = {} and goes on behind them": (),
    "changes abruptly from slice {} = {} to {}": (),
    "{} has closed holes of {}": (
        "liver has closed holes of 0.7 ml",
        "liver has closed holes of 2.0 % of its area",
        "liver has closed holes of 2.0 % of its volume",
    ),
    "{}: {}": ("Dice: not computed", "Dice: empty in the prediction and in the reference"),
    "{} of the slices {} the same as the next one, first at {} = {}": (
        "1 of the slices is the same as the next one, first at k = 3",
        "2 of the slices are the same as the next one, first at k = 3",
    ),
    "{} has {} {}; {} training results lie in {} to {} {} (percentile {})": (
        "liver has 3 ml; 50 training results lie in 4 to 5 ml (percentile 0)",
        "liver has 3 cm²; 50 training results lie in 4 to 5 cm² (percentile 0)",
    ),
    "{} lies {} of their size towards {} from {}; in training {} to {}": tuple(
        f"liver lies +0.10 of their size towards {way} from spleen; in training +0.20 to +0.30"
        for way in ("right", "left", "anterior", "superior", "foot")
    ),
    "the image looks mirrored along the axis that leads {}": tuple(
        f"the image looks mirrored along the axis that leads {way}"
        for way in ("right", "left", "anterior", "superior", "foot")
    ),
    "the image is {} mm long towards {}, training images {} to {} mm": tuple(
        f"the image is 30 mm long towards {way}, training images 40 to 50 mm"
        for way in ("right", "anterior", "superior")
    ),
    "the {} of the image is {}, that of training images {} to {}": tuple(
        f"the {what} of the image is 1, that of training images 2 to 3"
        for what in ("proportion left/foot", "proportion right/superior", "value low 0", "value high 1")
    ),
    "the {} spacing of the image is {} mm, that of training images {} to {} mm": tuple(
        f"the {what} spacing of the image is 1 mm, that of training images 2 to 3 mm"
        for what in ("finest", "coarsest")
    ),
    "{} is {}, {} the {} that bounds training results": tuple(
        f"{what} is 1, {side} the 2 that bounds training results"
        for side in ("above", "below")
        for what in ("share of the image of liver", "place j of liver", "aspect ij of liver", "log size ratio of a/b")
    ),
    "the result is unlike those of training images: {}{}": (
        "the result is unlike those of training images: extent of liver is 1, above the 2 that bounds training "
        "results, and 3 more",
    ),
    ", and {} more": (),
    "the image does not look like those the model was trained on ({}, limit {})": (
        "the image does not look like those the model was trained on (feature distance 3, limit 2)",
        "the image does not look like those the model was trained on (its features are not finite, limit 2)",
    ),
    "the image looks unlike those the model was trained on and the result is implausible ({}, limit {})": (
        "the image looks unlike those the model was trained on and the result is implausible (feature distance 3, "
        "limit 2)",
    ),
    "the image looks unusual for the model ({}, limit {})": (
        "the image looks unusual for the model (feature distance 3, limit 2)",
    ),
}  # fmt: skip


def templates(node):
    """Texts that an expression can be, with {} for what changes."""
    match node:
        case ast.Constant(value=str(words)):
            return [words]
        case ast.JoinedStr(values=values):
            return ["".join(v.value if isinstance(v, ast.Constant) else "{}" for v in values)]
        case ast.IfExp(body=body, orelse=other):
            return [*templates(body), *templates(other)]
    return []


def sentences():
    found = set()
    for path in Path(medseg.quality.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Return(value=ast.JoinedStr() as value):
                    found.update(templates(value))
                case ast.keyword(arg="text" | "reason" | "advice", value=value):
                    found.update(templates(value))
                case ast.Assign(
                    targets=[ast.Name(id="text" | "reason" | "what" | "more" | "why")], value=value
                ):
                    found.update(templates(value))
    return {words for words in found if " " in words}


def test_sentences_are_found_in_the_code():
    assert {"absent" in words or "{}" in words for words in sentences()} == {True, False}
    assert sentences() >= {"compare the two contours", "{} was not found"}
    assert set(MADE_OF_PARTS) <= sentences()


@pytest.mark.parametrize("other", OTHERS)
def test_every_sentence_of_the_checks_has_words(other):
    lost = [
        made
        for words in sentences()
        for made in MADE_OF_PARTS.get(words, (words.replace("{}", "7"),))
        if phrase(other, made) is None
    ]
    assert lost == []


@pytest.mark.parametrize("other", OTHERS)
def test_every_metric_has_a_definition_in_words(other):
    assert [d.title for d in DEFINITIONS.values() if phrase(other, d.definition) is None] == []


def test_parts_of_a_sentence_are_put_into_words_too():
    found = phrase(
        "zh",
        "the result is unlike those of training images: share of the image of liver is 0.3, above the 0.2 that bounds "
        "training results, and 4 more",
    )
    assert found == "结果与训练图像的结果不同：肝脏占图像的比例为 0.3，高于训练结果的上限 0.2，另有 4 项"
    assert (
        phrase("zh", "lung_left/lung_right is 3; training results lie in 1 to 2")
        == "左肺 / 右肺为 3；训练结果介于 1 至 2"
    )


def test_several_parts_of_one_place_are_listed():
    found = phrase("zh", "liver reaches the i first and k last edge of the image; its size is a lower bound")
    assert found == "肝脏触及图像边缘（i 首端、k 末端），其大小为下限"
