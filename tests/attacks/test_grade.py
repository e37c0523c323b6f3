"""Every attack through ``grader grade SESSION FOLDER``, all of them as one cohort."""

import json

import pytest

pytestmark = pytest.mark.timeout(900)  # the first test waits for all attacks, some of which end at their limit only


@pytest.fixture(scope="module")
def graded(world, secrets):
    """The output, and student -> report, of one run over all attacks."""
    submissions = world.write_submissions()
    out = world.folder / "reports"
    words = world.grader("grade", 3, submissions, "--out", out, "--seed", secrets.seed, check=(0,))
    return words, {path.parent.name: json.loads(path.read_text()) for path in out.rglob("3.1.json")}


@pytest.fixture(scope="module")
def earned(graded):
    return {
        student: {check["id"]: check["earned"] for check in report["checks"]} for student, report in graded[1].items()
    }


def readable(report):
    """What the student gets to read."""
    return "\n".join(f"{check['rationale']}\n{check['help']}" for check in report["checks"])


@pytest.mark.usefixtures("held")
def test_the_attack_is_held(attack, graded, earned, structure, secrets):
    report = graded[1][attack.student]
    assert report["environment"]["isolation"] == "bubblewrap"
    assert report["max_score"] == 16
    assert report["pending"] == 0
    secrets.assert_held(attack, earned, structure, readable(report))


def test_the_bases_are_worth_what_they_should_be(earned):
    scores = {base: sum(earned[f"base_{base}"].values()) for base in ("stub", "wrong", "slow")}
    assert scores["stub"] == 0
    assert 0 < scores["wrong"] < 14
    assert scores["slow"] == 14
    assert earned["base_slow"]["test_forward_and_backward_of_a_large_batch"] == 0


def test_the_neighbour_keeps_every_point(earned, secrets):
    assert sum(earned[secrets.canary("student")].values()) == 16


def test_nothing_is_left_on_the_machine(graded, world):
    assert world.touched() == []


def test_the_same_programs_find_the_secrets_where_no_seal_keeps_them(world, without_seal, secrets, graded):
    """So that "found nothing" means something."""

    def source(name):
        return next(world.sources[student] for student, attack in secrets.attacks.items() if attack.name == name)

    known = without_seal(source("places it knows"))
    assert "CANARY-suite" in known
    assert "CANARY-neighbour" in known
    assert "CANARY-network" in without_seal(source("the network"))
    assert "CANARY-own-0123456789abcdef" in without_seal(
        "kept = 'CANARY-' + 'own-0123456789abcdef'\n" + source("its own memory")
    )
    world.connections.clear()


@pytest.fixture
def without_seal():
    """``f(source)``: what a submission shouts when it is loaded without a seal."""
    from grader.bench import Bench, Child
    from grader.subject import SubmissionError
    from grader.submission import Submission

    with Bench("none") as bench:

        def run(source):
            child = Child(bench, Submission.from_source(source, "a.py"), "a", wall_s=60, memory_mb=8192)
            with pytest.raises(SubmissionError) as caught:
                child.run(len)
            child.close()
            return caught.value.rationale

        yield run
