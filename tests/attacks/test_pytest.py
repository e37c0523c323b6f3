"""Every attack through ``pytest --submission FILE --sealed``."""

import sys
import xml.etree.ElementTree as ElementTree

import pytest

pytestmark = pytest.mark.timeout(900)  # the first test waits for all attacks, some of which end at their limit only


@pytest.fixture(scope="module")
def passed(world, secrets):
    """``passed(student)``: check -> 1 when it passed, and what pytest printed."""
    suite = world.course / "tests" / secrets.folder / f"test_{secrets.module}.py"
    place = world.folder / "files"
    known = {}

    def run(student):
        if student not in known:
            path = place / student / f"{secrets.module}.py"
            path.parent.mkdir(parents=True)
            path.write_text(world.sources[student])
            results = place / student / "junit.xml"
            words = world.run(
                sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", suite, "--submission", path, "--sealed",
                "--seed", secrets.seed, "--junitxml", results, check=(0, 1),
            )  # fmt: skip
            cases = {case.get("name"): case for case in ElementTree.parse(results).iter("testcase")}
            assert len(cases) == 10
            known[student] = {name: float(not len(case)) for name, case in cases.items()}, words
        return known[student]

    return run


@pytest.mark.usefixtures("held")
def test_the_attack_is_held(attack, passed, structure, secrets):
    earned = {name: passed(name)[0] for name in (attack.student, f"base_{attack.base}")}
    secrets.assert_held(attack, earned, structure, passed(attack.student)[1])


def test_the_neighbour_keeps_every_point(passed, secrets):
    assert sum(passed(secrets.canary("student"))[0].values()) == 10


def test_nothing_is_left_on_the_machine(world):
    assert world.touched() == []
