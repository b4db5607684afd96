"""The methods paragraph: made of what the run did, in the language of the page."""

import pytest

from medseg.report.text import methods_text

SETTINGS = {
    "preprocess": [{"use": "resample", "spacing": [1.0, 1.0, 2.5]}, {"use": "zscore"}],
    "model": {"use": "unet", "start_from": None},
    "training": {
        "epochs": 50,
        "batch_size": 2,
        "optimiser": {"use": "adamw"},
        "learning_rate": 0.001,
        "schedule": {"use": "cosine"},
        "loss": {"use": "dice_ce"},
        "keep": "best",
        "metric": "dice",
    },
    "data": {"split": {"use": "random", "by": "patient_id"}},
    "inference": {"tta": "none"},
    "postprocess": [],
    "evaluation": {
        "metrics": [{"use": "dice"}, {"use": "hd95"}],
        "level": 0.95,
        "samples": 1000,
        "cases": "test",
    },
}
RUN = {
    "version": "1.2",
    "splits": {"train": 40, "validation": 8},
    "parameters": 2_500_000,
    "trained": {"epochs": 30},
}


def test_english():
    assert methods_text(SETTINGS, **RUN) == (
        "Images were prepared by these steps: resample (spacing 1.0, 1.0, 2.5); zscore. "
        "A network (unet, 2.50 million parameters) was trained from random weights on 40 images for 30 epochs with "
        "batches of 2, adamw at a learning rate of 0.001 (cosine schedule) and the loss dice_ce; the weights with the "
        "best validation dice (8 images) were kept. Splits are by patient_id. "
        "Probabilities were brought back to the grid of the image before the largest was taken; clean-up: none. "
        "Agreement (dice, hd95) was computed on the grid of the image over the test cases; intervals are 95% bootstrap "
        "intervals over patients (1000 resamples). Software: medseg 1.2."
    )


def test_chinese_says_the_same_numbers():
    found = methods_text(SETTINGS, **RUN, language="zh")
    for number in ("2.50 百万参数", "40 幅图像", "30 轮", "批大小 2", "0.001", "95%", "1000 次", "测试病例"):
        assert number in found
    assert "Images" not in found
    assert " 数据按 patient_id 划分。" in found


@pytest.mark.parametrize(("language", "words"), [("en", "was used as it is"), ("zh", "未再训练")])
def test_a_finished_model_and_a_tuned_clean_up(language, words):
    settings = SETTINGS | {"training": None, "model": {"use": "unet", "start_from": "lungs"}}
    settings |= {"postprocess": [{"use": "fill_holes"}], "inference": {"tta": "flip"}}
    found = methods_text(settings, **RUN | {"trained": None}, tuned_on="validation", language=language)
    assert words in found
    assert "fill holes" in found
    assert {"en": "chosen by Dice on validation: fill", "zh": "（在 validation 上按 Dice 选定）"}[
        language
    ] in found
