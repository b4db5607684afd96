"""The process that decodes and segments; it never touches the network or the database.

It reads one job as a line of JSON and answers with one line. Models stay loaded from one job to the next.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from medseg.errors import EnvironmentFailure, MedsegError
from medseg.node.isolation import end_with_supervisor, leave_network
from medseg.node.json_log import log_to_stderr

_MANY = 1000
"""Images that `engine: auto` counts on: a node runs for long, so measuring engines pays."""


def main() -> None:
    """Work until standard input ends."""
    # What a library prints must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # Nor may what it says of a value get into the log of the node.
    log_to_stderr("json")
    leave_network()
    end_with_supervisor()
    # The supervisor may be gone when the answer is ready; the job is done again.
    with contextlib.suppress(BrokenPipeError):
        for line in sys.stdin:
            _answer(answers, _do(json.loads(line)))


def _do(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request: `cases` as `CaseOutcome.to_json` gives them, or `error` and `exit_code`."""
    try:
        return {"cases": segment(request)}
    except MedsegError as err:
        return {"error": str(err), "exit_code": err.exit_code}
    except MemoryError:
        return {"error": "the memory of the machine ran out", "exit_code": EnvironmentFailure.exit_code}
    except Exception as err:
        # Its own text is left out: it may hold what a header says of a person.
        return {"error": f"internal error, please report it: {type(err).__name__}", "exit_code": 70}


def segment(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Segment the images in a folder.

    Parameters
    ----------
    request : dict
        `name` of the job, which the cases are named by; `input` and `output`, folders; `model`, the values of a
        `JobModel`; `threads` or None; `max_bytes`.
    """
    from medseg.pipeline.cohort_inputs import find_cases

    output = Path(request["output"])
    work = _work(json.dumps(request["model"], sort_keys=True), request["threads"], request["max_bytes"])
    # The network and its settings stay, the folder is the job's.
    work.settings = replace(work.settings, output=output)
    found = find_cases([Path(request["input"])], output=output, bundle=work.bundle, series="all")
    outcomes = []
    for number, case in enumerate(found.cases, 1):
        name = request["name"] if len(found.cases) == 1 else f"{request['name']}-{number}"
        outcomes.append(work.do(replace(case, image=replace(case.image, case_id=name))))
    return [outcome.to_json() for outcome in outcomes]


@lru_cache(maxsize=4)
def _work(model: str, threads: int | None, max_bytes: int) -> Any:
    from medseg.evaluation.instance_options import RecogniseOptions
    from medseg.pipeline.cohort_case import CaseWork
    from medseg.pipeline.cohort_settings import CohortSettings

    values = json.loads(model)
    recognise = values["recognise"]
    settings = CohortSettings(
        model=values["model"],
        output=Path(),
        kinds=tuple(values["exports"]),
        threads=threads,
        max_bytes=max_bytes,
        engine=values["engine"],
        images=_MANY,
        recognise=None if recognise is None else RecogniseOptions.model_validate(recognise),
    )
    return CaseWork(settings)


def _answer(stream: IO[str], value: dict[str, Any]) -> None:
    stream.write(json.dumps(value) + "\n")
    stream.flush()


if __name__ == "__main__":
    main()
