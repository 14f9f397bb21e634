"""Judges a report of the Autobahn test suite: every case OK, not merely NON-STRICT.

    check.py REPORT_FOLDER CASES_AT_LEAST

Three cases the suite itself defines as informational: it notes what a server does, and no outcome
of them is wrong. Prints each case that failed, then `N passed, N failed`; the exit code is 1 if
any failed, or if there are fewer cases in the report than there should be.
"""

import json
import pathlib
import sys

INFORMATIONAL = {"7.1.6", "7.13.1", "7.13.2"}


def is_good(case, result):
    outcome = (result["behavior"], result["behaviorClose"])
    if case in INFORMATIONAL and set(outcome) <= {"OK", "INFORMATIONAL"}:
        return True
    return outcome == ("OK", "OK")


def main(folder, at_least):
    agents = json.loads((pathlib.Path(folder) / "index.json").read_text())
    cases = [(case, result) for agent in agents.values() for case, result in agent.items()]
    bad = [(case, result) for case, result in cases if not is_good(case, result)]
    for case, result in bad:
        print(f"{case}: {result['behavior']}, close: {result['behaviorClose']}")
    print(f"{len(cases) - len(bad)} passed, {len(bad)} failed")
    if len(cases) < at_least:
        print(f"the report has {len(cases)} cases, there should be {at_least}")
        return 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
