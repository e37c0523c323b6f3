"""The table of attacks × entry points, from what the last ``make attacks`` has noted: printed, and written to README.md."""

import importlib.util
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
NOTES = HERE.parents[1] / "build" / "attacks"
ENTRIES = {
    "pytest": "`pytest --sealed`",
    "grade": "`grader grade`",
    "nbgrader": "`nbgrader autograde`",
    "gradescope": "Gradescope",
}
GOALS = {
    "stop": "Stop the judge",
    "change": "Change the judge",
    "learn": "Learn the answer",
    "measure": "Cheat the measure",
    "host": "Reach the machine or the next submission",
}

TEXT = """\
# Attacks

What hostile submissions try, each run through every way in on every CI run (`make attacks`). *held*: it earned no point that its
answer does not deserve, what the student gets to read holds no secret (of the suite, the reference, the seed, another submission,
the environment, the network), the neighbour kept every point, and nothing was left on the machine. The programs are in
`corpus.py`; the same ones find the secrets where no seal keeps them, which is tested too. What notebooks alone can try (deleted,
doubled, renamed, edited cells, magics, links) is in `test_nbgrader.py`. This file is written by `make attacks`.

One thing is believed: what an answer claims of its own structure (names, shapes, errors). *nothing but claims about itself* may
earn those checks, 3 of 16 points, and no other.
"""


def main() -> None:
    """Print and write."""
    table, open_ones = table_of(load_corpus())
    print(table)
    for line in open_ones:
        print(line, file=sys.stderr)
    (HERE / "README.md").write_text(f"{TEXT}\n{table}", encoding="utf-8")
    sys.exit(1 if open_ones else 0)


def load_corpus():
    """The attacks."""
    spec = importlib.util.spec_from_file_location("corpus", HERE / "corpus.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["corpus"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module.ATTACKS


def table_of(attacks):
    """The table as Markdown, and a line for each attack that was not held or not run."""
    lines = [f"| attack | {' | '.join(ENTRIES.values())} |", f"| --- |{' --- |' * len(ENTRIES)}"]
    open_ones = []
    for goal, title in GOALS.items():
        lines.append(f"| **{title}** |{' |' * len(ENTRIES)}")
        for attack in (attack for attack in attacks if attack.goal == goal):
            cells = []
            for entry in ENTRIES:
                path = NOTES / f"{entry}-{attack.student}.json"
                held = path.is_file() and json.loads(path.read_text())
                cells.append("held" if held else "**open**" if path.is_file() else "not run")
                if not held:
                    open_ones.append(f"{attack.name} at {entry}: {cells[-1]}")
            lines.append(f"| {attack.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n", open_ones


if __name__ == "__main__":
    main()
