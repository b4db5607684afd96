"""What cells of the cohort's tables say where there is little to say."""

from dataclasses import replace

from medseg.report.cohort import render


def test_the_table_of_means_leaves_reasons_to_the_table_of_all_metrics(make_report):
    report = make_report()
    structures = {
        name: {
            key: value
            | {
                "mean": None,
                "mean_interval": None,
                "undefined": {"the reference does not tell this structure": 3},
            }
            for key, value in metrics.items()
        }
        for name, metrics in report.summary["structures"].items()
    }
    known = dict(report.summary["structures"])
    first = next(iter(known))
    page = render(
        replace(
            report, language="zh", summary=report.summary | {"structures": known | {first: structures[first]}}
        )
    )
    main, _, rest = page[page.index('id="agreement"') :].partition("<details")
    assert "参考标准未标注该结构" not in main
    assert "the reference does not tell" not in rest.partition("<script")[0]
    assert "参考标准未标注该结构" in rest
