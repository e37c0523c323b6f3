"""Every attack through ``nbgrader autograde``, as one class; and what only notebooks can try."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from nbgrader.api import Gradebook

pytestmark = pytest.mark.timeout(900)  # the first test waits for all attacks, some of which end at their limit only

SOLUTION = {"schema_version": 3, "grade": False, "solution": True, "locked": False, "task": False}


@pytest.fixture(scope="module")
def graded(world, secrets):
    """student -> (check kind -> points, what the student reads)."""
    place = world.folder / "class"
    world.grader("release", 3, "--as", "notebooks", "--to", place, check=(0,))
    config = place / "nbgrader_config.py"
    config.write_text(config.read_text() + f"\nc.Judge.seed = {secrets.seed}\n")
    released = json.loads((place / "release" / secrets.folder / f"{secrets.module}.ipynb").read_text())
    for student, source in world.sources.items():
        folder = place / "submitted" / student / secrets.folder
        folder.mkdir(parents=True)
        (folder / f"{secrets.module}.ipynb").write_text(json.dumps(notebook_of(released, source)))
    for student, spoil in NOTEBOOKS.items():
        folder = place / "submitted" / student / secrets.folder
        folder.mkdir(parents=True)
        spoil(released, folder / f"{secrets.module}.ipynb", place)
    command = Path(sys.executable).with_name("nbgrader")
    world.run(command, "autograde", secrets.folder, cwd=place, check=(0,))
    with Gradebook(f"sqlite:///{place / 'gradebook.db'}") as gradebook:
        found = {
            submission.student.id: {
                grade.name.rpartition("_")[2]: grade.auto_score
                for book in submission.notebooks
                for grade in book.grades
            }
            for submission in gradebook.assignment_submissions(secrets.folder)
        }
    words = {
        student: readable(place / "autograded" / student / secrets.folder / f"{secrets.module}.ipynb")
        for student in found
    }
    return found, words


def notebook_of(released, source):
    """The released notebook with the whole answer in its first solution cell, and nothing in the others."""
    notebook = json.loads(json.dumps(released))
    first = True
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code" and cell["metadata"].get("nbgrader", {}).get("solution"):
            cell["source"] = source if first else "pass"
            first = False
    return notebook


def readable(path):
    """The outputs of a graded notebook."""
    cells = json.loads(path.read_text())["cells"]
    return "\n".join(
        "".join(output.get("text", "")) for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]
    )


def changed(change):
    """A notebook of which ``change(cells)`` has been made."""

    def write(released, path, place):
        notebook = json.loads(json.dumps(released))
        notebook["cells"] = change(notebook["cells"]) or notebook["cells"]
        path.write_text(json.dumps(notebook))

    return write


def is_graded(cell):
    return bool(cell["metadata"].get("nbgrader", {}).get("grade"))


def worth_more(cells):
    for cell in cells:
        if is_graded(cell):
            cell["metadata"]["nbgrader"]["points"] = 10**6
            cell["source"] = "10**6"
            cell["outputs"] = [
                {"output_type": "execute_result", "data": {"text/plain": "16.0"}, "metadata": {}, "execution_count": 1}
            ]


def other_ids(cells):
    for number, cell in enumerate(cells):
        if is_graded(cell):
            cell["metadata"]["nbgrader"]["grade_id"] = f"mine{number}"


def magic(cells):
    cells.insert(
        0,
        {
            "cell_type": "code",
            "id": "m",
            "metadata": {},
            "outputs": [],
            "execution_count": None,
            "source": "%%bash\ntouch /tmp/written-by-an-attack",
        },
    )
    for cell in cells:
        if cell["metadata"].get("nbgrader", {}).get("solution"):
            cell["source"] = "!touch /tmp/written-by-an-attack\nget_ipython().system('touch /tmp/written-by-an-attack')"


def link(target):
    def write(released, path, place):
        path.symlink_to(place / target)

    return write


NOTEBOOKS = {
    "notebook_graded_cells_deleted": changed(lambda cells: [cell for cell in cells if not is_graded(cell)]),
    "notebook_graded_cells_doubled": changed(lambda cells: [*cells, *map(dict, filter(is_graded, cells))]),
    "notebook_points_and_outputs_edited": changed(worth_more),
    "notebook_ids_renamed": changed(other_ids),
    "notebook_reversed": changed(lambda cells: cells[::-1]),
    "notebook_magics": changed(magic),
    "notebook_empty": changed(lambda cells: []),
    "notebook_answer_in_markdown": changed(lambda cells: [{**cell, "cell_type": "markdown"} for cell in cells]),
    "notebook_no_json": lambda released, path, place: path.write_text("{"),
    "notebook_link_to_another": link("submitted/base_slow/session_03_nn_module/ex1_basic_mlp.ipynb"),
    "notebook_link_to_the_source": link("source/session_03_nn_module/ex1_basic_mlp.ipynb"),
    "notebook_link_to_the_gradebook": link("gradebook.db"),
}


@pytest.mark.usefixtures("held")
def test_the_attack_is_held(attack, graded, secrets):
    earned, words = graded
    base = earned[f"base_{attack.base}"]
    allowed = {kind: points for kind, points in base.items() if attack.goal != "measure" or kind != "throughput"}
    if attack.claims:
        allowed["shapes"] += 3  # the checks of structure
    mine = earned[attack.student]
    assert set(mine) == {"shapes", "gradients", "convergence", "throughput"}
    assert {kind: points for kind, points in mine.items() if points is None or points > allowed.get(kind, 0)} == {}
    secrets.assert_silent(words[attack.student])


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_without_an_answer_earns_nothing(graded, name):
    assert set(graded[0][name].values()) == {0.0}
    assert "CANARY" not in graded[1][name]


def test_the_neighbour_keeps_every_point(graded, secrets):
    assert sum(graded[0][secrets.canary("student")].values()) == 16


def test_nothing_is_left_on_the_machine(graded, world):
    assert world.touched() == []
    shutil.rmtree(world.folder / "class")
