"""Every attack through the Gradescope autograder: the released archive, unpacked, its ``run_autograder`` started."""

import json
import sys
import zipfile

import pytest

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def graded(world, secrets):
    """``graded(student)``: check title -> points, and what the student reads."""
    place = world.folder / "autograder"
    for name in ("README.md", "LICENSE", "pyproject.toml", "requirements.lock"):  # the archive holds a whole course
        (world.course / name).write_text((secrets.root / name).read_text())
    (world.course / "grader").symlink_to(secrets.root / "grader")
    archive = (
        world.grader("release", 3, "--as", "gradescope", "--to", world.folder, check=(0,)).strip().splitlines()[-1]
    )
    with zipfile.ZipFile(archive) as file:
        file.extractall(place / "source")
    (place / "results").mkdir()
    (place / "submission").mkdir()
    known = {}

    def run(student):
        if student not in known:
            (place / "submission" / f"{secrets.module}.py").write_text(world.sources[student])
            script = f"AUTOGRADER={place} AUTOGRADER_PYTHON={sys.executable} bash {place}/source/run_autograder"
            world.run("bash", "-c", script, check=(0,), cwd=place)
            results = json.loads((place / "results" / "results.json").read_text())
            tests = results["tests"]
            assert len(tests) == 10
            assert sum(test["max_score"] for test in tests) == 16
            words = "\n".join([results["output"], *(test["output"] for test in tests)])
            known[student] = (
                {test["name"]: test["score"] for test in tests},
                words,
                results["extra_data"]["seals"]["3.1"],
            )
        return known[student]

    return run


@pytest.mark.usefixtures("held")
def test_the_attack_is_held(attack, graded, secrets):
    mine, words, seal = graded(attack.student)
    base = dict(graded(f"base_{attack.base}")[0])
    assert seal.startswith("bubblewrap")
    allowed = {name: points for name, points in base.items() if attack.goal != "measure" or "2048" not in name}
    gained = {name: points for name, points in mine.items() if points > allowed.get(name, 0)}
    assert sum(gained.values()) <= (3 if attack.claims else 0)  # the three checks of structure can be claimed
    secrets.assert_silent(words)


def test_the_neighbour_keeps_every_point(graded, secrets):
    assert sum(graded(secrets.canary("student"))[0].values()) == 16


def test_nothing_is_left_on_the_machine(world):
    assert world.touched() == []
