"""The manifest: what is in it, what is refused and in which words, and where the files of an exercise lie."""

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from grader import course as manifest
from grader.course import KINDS, Course, CourseError, Limits

ROOT = Path(__file__).parents[2]
POINTS = {"shapes": 6, "gradients": 4, "convergence": 4, "throughput": 2}

Raw = dict[str, Any]


def exercise(number: int, slug: str, status: str = "ready", prerequisites: tuple[str, ...] = ()) -> Raw:
    raw: Raw = {"number": number, "slug": slug, "title": slug.title(), "stars": 2, "minutes": 25, "status": status}
    raw["prerequisites"] = list(prerequisites)
    return raw | ({"points": dict(POINTS)} if status == "ready" else {})


def session(number: int, slug: str, *exercises: Raw, prerequisites: tuple[str, ...] = ()) -> Raw:
    raw: Raw = {"number": number, "slug": slug, "title": slug.title(), "minutes": 180, "chapters": ["A book, ch. 6"]}
    return raw | {"prerequisites": list(prerequisites), "exercise": list(exercises)}


GOOD: Raw = {
    "course": {"title": "A course"},
    "session": [
        session(1, "tensors", exercise(1, "one_hot"), exercise(2, "kmers", "planned", ("1.1",))),
        session(
            3, "nn_module", exercise(1, "basic_mlp", "ready", ("1.1",)), exercise(2, "dropout"), prerequisites=("1.2",)
        ),
        session(4, "cnn", exercise(1, "simple_cnn", "planned")),
    ],
    "capstone": [
        {
            **{"number": 1, "slug": "variants", "title": "Variants", "minutes": 540, "sessions": [1, 3]},
            **{"status": "planned", "parts": [{"slug": "preprocess", "title": "Preprocess", "minutes": 120}]},
        }
    ],
}


def toml(value: object) -> str:
    """An inline TOML value; strings, numbers, lists and tables are enough."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def write(folder: Path, raw: Raw) -> Path:
    path = folder / "course.toml"
    path.write_text("\n".join(f"{json.dumps(key)} = {toml(value)}" for key, value in raw.items()), encoding="utf-8")
    return path


@pytest.fixture
def course(tmp_path: Path) -> Course:
    return manifest.load(write(tmp_path, GOOD))


# -- mistakes in the file --

S3 = "course.toml: session 3"
E31 = "course.toml: session 3, exercise 1"
C1 = "course.toml: capstone 1"


def put(*path: str | int, to: object) -> Callable[[Raw], None]:
    """An edit of the good manifest: the value at ``path`` becomes ``to``."""

    def edit(raw: Any) -> None:
        for step in path[:-1]:
            raw = raw[step]
        raw[path[-1]] = to

    return edit


def drop(*path: str | int) -> Callable[[Raw], None]:
    def edit(raw: Any) -> None:
        for step in path[:-1]:
            raw = raw[step]
        del raw[path[-1]]

    return edit


def both(*edits: Callable[[Raw], None]) -> Callable[[Raw], None]:
    def edit(raw: Raw) -> None:
        for one in edits:
            one(raw)

    return edit


FIRST = ("session", 1, "exercise", 0)  # exercise 3.1
SECOND = ("session", 1, "exercise", 1)  # exercise 3.2
EXERCISE_KEYS = "number, slug, title, stars, minutes, status, points, prerequisites, limits, waives"

MISTAKES = [
    # unknown keys
    (put("extra", to=1), "course.toml: unknown key 'extra'; known: course, session, capstone"),
    (put("course", "year", to=1), "course.toml: course: unknown key 'year'; known: title"),
    (put("session", 1, "slag", to=1), f"{S3}: unknown key 'slag'; known: number, slug, "),
    (put(*FIRST, "star", to=1), f"{E31}: unknown key 'star'; known: {EXERCISE_KEYS}"),
    (put(*FIRST, "points", "style", to=1), f"{E31}: points: unknown key 'style'; known: {', '.join(KINDS)}"),
    (put(*FIRST, "waives", to={"style": "x"}), f"{E31}: waives: unknown key 'style'; known: {', '.join(KINDS)}"),
    (put(*FIRST, "limits", to={"wall": 1}), f"{E31}: limits: unknown key 'wall'; known: wall_s, memory_mb"),
    (put("capstone", 0, "stars", to=1), f"{C1}: unknown key 'stars'; known: number, slug, "),
    (put("capstone", 0, "parts", 0, "hours", to=1), f"{C1}, parts no. 1 of the file: unknown key 'hours'"),
    # missing keys
    *((drop(key), f"course.toml: {key} is missing") for key in ("course", "session")),
    (drop("course", "title"), "course.toml: course: title is missing"),
    (drop("session", 1, "number"), "course.toml: session no. 2 of the file: number is missing"),
    *(
        (drop("session", 1, key), f"{S3}: {key} is missing")
        for key in ("slug", "title", "minutes", "chapters", "prerequisites", "exercise")
    ),
    (drop(*FIRST, "number"), f"{S3}, exercise no. 1 of the file: number is missing"),
    *(
        (drop(*FIRST, key), f"{E31}: {key} is missing")
        for key in ("slug", "title", "stars", "minutes", "status", "prerequisites")
    ),
    *(
        (drop("capstone", 0, key), f"{C1}: {key} is missing")
        for key in ("slug", "title", "minutes", "sessions", "status", "parts")
    ),
    *(
        (drop("capstone", 0, "parts", 0, key), f"{C1}, parts no. 1 of the file: {key} is missing")
        for key in ("slug", "title", "minutes")
    ),
    # wrong types; a bool is not a whole number
    (put("course", to=3), "course.toml: course must be a table, got 3"),
    (put("session", to={}), "course.toml: session must be a list, got {}"),
    (put("session", 1, to=3), "course.toml: session no. 2 of the file: must be a table, got 3"),
    (put("session", 1, "number", to=True), "course.toml: session no. 2 of the file: number must be a whole number"),
    (put("session", 1, "title", to=3), f"{S3}: title must be a text, got 3"),
    (put("session", 1, "chapters", to="x"), f"{S3}: chapters must be a list, got 'x'"),
    (put("session", 1, "chapters", to=["x", 6]), f"{S3}: chapters, item 2, must be a text, got 6"),
    (put(*FIRST, "stars", to=True), f"{E31}: stars must be a whole number, got True"),
    (put(*FIRST, "stars", to=2.0), f"{E31}: stars must be a whole number, got 2.0"),
    (put(*FIRST, "minutes", to="25"), f"{E31}: minutes must be a whole number, got '25'"),
    (put(*FIRST, "points", to=[6]), f"{E31}: points must be a table, got [6]"),
    (put(*FIRST, "points", "shapes", to=True), f"{E31}: points: shapes must be a whole number, got True"),
    (put(*FIRST, "prerequisites", to=[2.5]), f"{E31}: prerequisites, item 1, must be a text, got 2.5"),
    (
        put(*FIRST, "limits", to={"wall_s": True}),
        f"{E31}: limits: wall_s must be a number of seconds above 0, got True",
    ),
    (put(*FIRST, "limits", to={"memory_mb": 1.5}), f"{E31}: limits: memory_mb must be a whole number, got 1.5"),
    (
        both(drop(*FIRST, "points", "shapes"), put(*FIRST, "waives", to={"shapes": 1})),
        f"{E31}: waives: shapes must be a text, got 1",
    ),
    (put("capstone", 0, "sessions", to=["3"]), f"{C1}: sessions, item 1, must be a whole number, got '3'"),
    # values out of range
    (put("course", "title", to=" "), "course.toml: course: title must not be empty"),
    (put("session", 1, "number", to=0), "course.toml: session 0: number must be at least 1, got 0"),
    (put("session", 1, "minutes", to=0), f"{S3}: minutes must be at least 1, got 0"),
    (put(*FIRST, "number", to=-1), f"{S3}, exercise -1: number must be at least 1, got -1"),
    (put(*FIRST, "title", to=""), f"{E31}: title must not be empty"),
    (put(*FIRST, "stars", to=7), f"{E31}: stars must be 1 to 5, got 7"),
    (put(*FIRST, "stars", to=0), f"{E31}: stars must be 1 to 5, got 0"),
    (put(*FIRST, "minutes", to=-5), f"{E31}: minutes must be at least 1, got -5"),
    (put(*FIRST, "status", to="done"), f"{E31}: status must be ready or planned, got 'done'"),
    (put(*FIRST, "limits", to={"wall_s": 0}), f"{E31}: limits: wall_s must be a number of seconds above 0, got 0"),
    (put(*FIRST, "limits", to={"memory_mb": 0}), f"{E31}: limits: memory_mb must be at least 1, got 0"),
    (put("capstone", 0, "minutes", to=0), f"{C1}: minutes must be at least 1, got 0"),
    (put("capstone", 0, "status", to="done"), f"{C1}: status must be ready or planned, got 'done'"),
    (put("capstone", 0, "parts", 0, "minutes", to=0), f"{C1}, parts no. 1 of the file: minutes must be at least 1"),
    *(
        (put(*path, "slug", to=slug), f"{place}: slug may have only the characters a-z, 0-9 and _, got {slug!r}")
        for path, place in (
            (("session", 1), S3),
            (FIRST, E31),
            (("capstone", 0), C1),
            (("capstone", 0, "parts", 0), f"{C1}, parts no. 1 of the file"),
        )
        for slug in ("Basic", "basic-mlp", "../up", "", "mlp\n")
    ),
    # points and waivers
    (put(*FIRST, "points", "shapes", to=0), f"{E31}: points: shapes must be at least 1, got 0"),
    (drop(*FIRST, "points"), f"{E31}: points: shapes is missing; give it points, or say in waives why"),
    (drop(*FIRST, "points", "throughput"), f"{E31}: points: throughput is missing; give it points, or say in waives"),
    (put(*FIRST, "waives", to={"shapes": "x"}), f"{E31}: points: shapes is waived, so it cannot have points"),
    (
        both(drop(*FIRST, "points", "shapes"), put(*FIRST, "waives", to={"shapes": ""})),
        f"{E31}: waives: shapes must not be empty",
    ),
    # twice the same
    (put("session", 2, "number", to=3), f"{S3}: this number is used twice"),
    (put("session", 2, "slug", to="tensors"), "course.toml: session 4: slug 'tensors' is already that of session 1"),
    (put(*SECOND, "number", to=1), f"{E31}: this number is used twice"),
    (
        put(*SECOND, "slug", to="basic_mlp"),
        f"{S3}, exercise 2: slug 'basic_mlp' is already that of session 3, exercise 1",
    ),
    (put(*FIRST, "slug", to="one_hot"), f"{E31}: slug 'one_hot' is already that of session 1, exercise 1"),
    (lambda raw: raw["capstone"].append(raw["capstone"][0]), f"{C1}: this number is used twice"),
    (
        lambda raw: raw["capstone"].append(raw["capstone"][0] | {"number": 2}),
        "course.toml: capstone 2: slug 'variants' is already that of capstone 1",
    ),
    (
        lambda raw: raw["capstone"][0]["parts"].append(raw["capstone"][0]["parts"][0]),
        f"{C1}: slug 'preprocess' is used by two parts",
    ),
    # prerequisites
    (put(*FIRST, "prerequisites", to=["2.5"]), f"{E31}: prerequisite '2.5' is not the id of an exercise"),
    (put(*FIRST, "prerequisites", to=["3.1"]), f"{E31}: prerequisite '3.1' does not come earlier"),
    (put(*FIRST, "prerequisites", to=["3.2"]), f"{E31}: prerequisite '3.2' does not come earlier"),
    (put(*FIRST, "prerequisites", to=["4.1"]), f"{E31}: prerequisite '4.1' does not come earlier"),
    (put("session", 1, "prerequisites", to=["2.5"]), f"{S3}: prerequisite '2.5' is not the id of an exercise"),
    (put("session", 1, "prerequisites", to=["3.1"]), f"{S3}: prerequisite '3.1' does not come earlier"),
    (put("capstone", 0, "sessions", to=[2]), f"{C1}: there is no session 2"),
]


@pytest.mark.parametrize(("edit", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_a_mistake_is_one_line_that_begins_with_its_place(
    tmp_path: Path, edit: Callable[[Raw], None], message: str
) -> None:
    raw = copy.deepcopy(GOOD)
    edit(raw)
    with pytest.raises(CourseError) as caught:
        manifest.load(write(tmp_path, raw))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["inf", "nan", "-inf", "-1.5"])
def test_a_time_limit_is_a_finite_positive_number(tmp_path: Path, value: str) -> None:
    raw = copy.deepcopy(GOOD)
    put(*FIRST, "limits", to={"wall_s": "TIME"})(raw)
    path = write(tmp_path, raw)
    path.write_text(path.read_text().replace('"TIME"', value))
    with pytest.raises(CourseError, match=f"^{E31}: limits: wall_s must be a number of seconds above 0, got {value}$"):
        manifest.load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"[course\n",
            "course.toml: not valid TOML: Expected ']' at the end of a table declaration (at line 1, column 8)",
        ),
        (b"a = 1\na = 2\n", "course.toml: not valid TOML: Cannot overwrite a value (at line 2, column 6)"),
        (b"title = '\xff'", "course.toml: not UTF-8 text (byte 9)"),
        (b"", "course.toml: course is missing"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "course.toml").write_bytes(content)
    with pytest.raises(CourseError) as caught:
        manifest.load(tmp_path)
    assert str(caught.value) == message


def test_a_file_that_is_not_there_says_where(tmp_path: Path) -> None:
    with pytest.raises(CourseError) as caught:
        manifest.load(tmp_path)
    assert str(caught.value) == f"{tmp_path / 'course.toml'}: No such file or directory"


# -- what a good file becomes --


def test_every_field_of_an_exercise(course: Course) -> None:
    one = course.exercise("3.1")
    assert (one.id, one.number, one.session) == ("3.1", 1, 3)
    assert (one.folder, one.slug, one.module) == ("session_03_nn_module", "basic_mlp", "ex1_basic_mlp")
    assert (one.title, one.stars, one.minutes, one.status) == ("Basic_Mlp", 2, 25, "ready")
    assert (one.points, one.max_score, one.ready) == (POINTS, 16, True)
    assert (one.prerequisites, one.limits, one.waives) == (("1.1",), Limits(30.0, 4096), {})
    planned = course.exercise("4.1")
    assert (planned.ready, planned.points, planned.max_score) == (False, {}, 0)


def test_every_field_of_sessions_and_capstones(course: Course) -> None:
    assert course.title == "A course"
    three = course.session(3)
    assert (three.number, three.slug, three.title, three.folder) == (
        3,
        "nn_module",
        "Nn_Module",
        "session_03_nn_module",
    )
    assert (three.minutes, three.chapters, three.prerequisites) == (180, ("A book, ch. 6",), ("1.2",))
    assert [one.id for one in three.exercises] == ["3.1", "3.2"]
    (capstone,) = course.capstones
    assert (capstone.number, capstone.slug, capstone.title) == (1, "variants", "Variants")
    assert (capstone.folder, capstone.minutes, capstone.sessions) == ("capstone1_variants", 540, (1, 3))
    assert (capstone.chapters, capstone.status) == ((), "planned")
    (part,) = capstone.parts
    assert (part.id, part.number, part.slug, part.module) == ("C1.1", 1, "preprocess", "c1_preprocess")
    assert (part.title, part.minutes) == ("Preprocess", 120)


def test_limits_and_waivers_are_read(tmp_path: Path) -> None:
    raw = copy.deepcopy(GOOD)
    raw["session"][1]["exercise"][0] |= {"limits": {"wall_s": 90}, "waives": {"throughput": "too short to time"}}
    del raw["session"][1]["exercise"][0]["points"]["throughput"]
    one = manifest.load(write(tmp_path, raw)).exercise("3.1")
    assert one.limits == Limits(90.0, 4096)
    assert one.waives == {"throughput": "too short to time"}
    assert one.max_score == 14


def test_order_in_the_file_does_not_matter(tmp_path: Path) -> None:
    raw = copy.deepcopy(GOOD)
    raw["session"].reverse()
    for one in raw["session"]:
        one["exercise"].reverse()
    assert [one.id for one in manifest.load(write(tmp_path, raw)).exercises] == ["1.1", "1.2", "3.1", "3.2", "4.1"]


def test_an_exercise_cannot_be_changed_but_can_be_hashed_and_pickled(course: Course) -> None:
    one = course.exercise("3.1")
    with pytest.raises(AttributeError):
        one.stars = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        one.points["shapes"] = 100  # type: ignore[index]
    assert len({one, course.exercise("3.2"), course.exercise("basic_mlp")}) == 2
    for pickler in (pickle, cloudpickle):
        again = pickle.loads(pickler.dumps(course))
        assert again == course
        with pytest.raises(TypeError):
            again.exercise("3.1").points["shapes"] = 100


# -- finding an exercise --


@pytest.mark.parametrize("name", ["3.1", "ex1_basic_mlp", "basic_mlp"])
def test_an_exercise_has_three_names(course: Course, name: str) -> None:
    assert course.exercise(name).id == "3.1"
    assert [one.id for one in course.select([name])] == ["3.1"]


def test_exercise_and_session_refuse_what_does_not_exist(course: Course) -> None:
    with pytest.raises(
        CourseError, match=r"^no exercise 'basic_mpl' in course.toml; did you mean 3.1 \(basic_mlp\)\?$"
    ):
        course.exercise("basic_mpl")
    with pytest.raises(CourseError, match=r"^no exercise '3\.9' in course.toml; did you mean .*3\.1 \(basic_mlp\)"):
        course.exercise("3.9")
    with pytest.raises(CourseError, match=r"^no exercise 'zzz' in course.toml$"):
        course.exercise("zzz")
    with pytest.raises(CourseError, match=r"^no session 2 in course.toml; there are 1, 3, 4$"):
        course.session(2)


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        ([], []),
        (["all"], ["1.1", "3.1", "3.2"]),
        (["3"], ["3.1", "3.2"]),
        (["1"], ["1.1"]),
        (["3.2", "3.1"], ["3.1", "3.2"]),
        (["3.2", "dropout", "3", "1", "all"], ["1.1", "3.1", "3.2"]),
    ],
)
def test_select_takes_ready_exercises_in_order_and_once(course: Course, names: list[str], ids: list[str]) -> None:
    assert [one.id for one in course.select(names)] == ids


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("4.1", r"exercise 4\.1 is planned, not written yet; did you mean .*3\.1 \(basic_mlp\)"),
        ("kmers", "exercise kmers is planned, not written yet"),
        ("4", "4: no exercise is ready yet"),
        ("9", "no session 9 in course.toml; there are 1, 3, 4"),
        ("drop_out", r"no exercise 'drop_out' in course.toml; did you mean 3\.2 \(dropout\)\?"),
        ("", "no exercise '' in course.toml"),
    ],
)
def test_select_refuses_planned_and_unknown_names(course: Course, name: str, message: str) -> None:
    with pytest.raises(CourseError, match=f"^{message}"):
        course.select(["3.1", name])


@pytest.mark.parametrize(
    "path",
    [
        "ex1_basic_mlp.py",
        "submitted/ann/ex1_basic_mlp.ipynb",
        "tests/session_03_nn_module/test_ex1_basic_mlp.py",
        "tests/session_03_nn_module/controls_ex1_basic_mlp.py",
    ],
)
def test_a_file_belongs_to_the_exercise_after_which_it_is_named(course: Course, path: str) -> None:
    assert course.exercise_of(Path(path)).id == "3.1"


@pytest.mark.parametrize("path", ["basic_mlp.py", "ex2_basic_mlp.py", "my_ex1_basic_mlp.py"])
def test_a_file_of_another_name_belongs_to_none(course: Course, path: str) -> None:
    with pytest.raises(CourseError, match=rf"^{path} is not named after an exercise; did you mean 3\.1 \(basic_mlp\)"):
        course.exercise_of(Path("folder") / path)


def test_find_walks_up_to_the_nearest_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = tmp_path / "outer" / "release"
    (release / "deep" / "deeper").mkdir(parents=True)
    (tmp_path / "outer" / "other").mkdir()
    write(tmp_path / "outer", GOOD)
    write(release, GOOD | {"course": {"title": "The release"}})
    for start in (release, release / "deep" / "deeper", release / "deep" / "file.py"):
        assert manifest.find(start).root == release.resolve()
    assert manifest.find(tmp_path / "outer" / "other").title == "A course"
    monkeypatch.chdir(release / "deep")
    assert manifest.find().title == "The release"


def test_find_says_what_to_do_when_there_is_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(CourseError) as caught:
        manifest.find(tmp_path)
    assert str(caught.value) == (
        f"no course.toml in {tmp_path.resolve()} or any folder above it: "
        "run this inside the course or a released session"
    )


# -- where the files lie --


def test_paths_in_the_repository(course: Course, tmp_path: Path) -> None:
    (tmp_path / "exercises").mkdir()
    one = course.exercise("3.1")
    root = tmp_path.resolve()
    assert course.stub(one) == root / "exercises/session_03_nn_module/ex1_basic_mlp.py"
    assert course.visible_suite(one) == root / "exercises/session_03_nn_module/test_ex1_basic_mlp.py"
    assert course.hints(one) == root / "exercises/session_03_nn_module/hints.toml"
    assert course.reference(one) == root / "reference/session_03_nn_module/ex1_basic_mlp.py"
    assert course.hidden_suite(one) == root / "tests/session_03_nn_module/test_ex1_basic_mlp.py"
    assert course.controls(one) == root / "tests/session_03_nn_module/controls_ex1_basic_mlp.py"


def test_paths_in_a_released_session(course: Course, tmp_path: Path) -> None:
    one = course.exercise("3.1")
    root = tmp_path.resolve()
    assert course.stub(one) == root / "ex1_basic_mlp.py"
    assert course.visible_suite(one) == root / "test_ex1_basic_mlp.py"
    assert course.hints(one) == root / "hints.toml"


def test_load_takes_the_folder_and_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path)
    courses = [manifest.load(path), manifest.load(tmp_path), manifest.load(Path("course.toml")), manifest.load(Path())]
    assert {course.root for course in courses} == {tmp_path.resolve()}


def test_check_files_names_what_ready_exercises_lack(course: Course, tmp_path: Path) -> None:
    (tmp_path / "exercises").mkdir()
    assert len(course.check_files()) == 3 * 6
    for one in (course.exercise("1.1"), course.exercise("3.1"), course.exercise("3.2")):
        for file in (course.reference, course.stub, course.visible_suite, course.hidden_suite, course.controls):
            file(one).parent.mkdir(parents=True, exist_ok=True)
            file(one).touch()
        course.hints(one).touch()
    assert course.check_files() == []
    one = course.exercise("3.2")
    for file in (course.reference, course.stub, course.visible_suite, course.hidden_suite, course.controls):
        file(one).unlink()
    course.hints(course.exercise("1.1")).unlink()
    assert course.check_files() == [
        "1.1: no hints: exercises/session_01_tensors/hints.toml",
        "3.2: no reference: reference/session_03_nn_module/ex2_dropout.py",
        "3.2: no stub: exercises/session_03_nn_module/ex2_dropout.py",
        "3.2: no visible suite: exercises/session_03_nn_module/test_ex2_dropout.py",
        "3.2: no hidden suite: tests/session_03_nn_module/test_ex2_dropout.py",
        "3.2: no controls: tests/session_03_nn_module/controls_ex2_dropout.py",
    ]


# -- the course's own manifest --


def test_the_course_has_twelve_sessions_of_six_exercises_and_three_capstones() -> None:
    course = manifest.load(ROOT)
    assert [session.number for session in course.sessions] == list(range(1, 13))
    assert [one.id for one in course.exercises] == [f"{s}.{e}" for s in range(1, 13) for e in range(1, 7)]
    assert [(one.number, len(one.parts)) for one in course.capstones] == [(1, 5), (2, 5), (3, 5)]
    assert all(session.chapters for session in course.sessions)
    assert [one.id for one in course.select(["3"])] == ["3.1", "3.2", "3.3", "3.4", "3.5", "3.6"]


def test_reading_the_manifest_imports_nothing_heavy() -> None:
    code = "import sys, grader.course; print(*sorted({'torch', 'pydantic', 'numpy', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
