"""Stage `report`: the cohort page of the run."""

STAGE = "report"


def plan(context):
    return "one page for the cohort"


def run(context):
    return {"text": "placeholder"}
