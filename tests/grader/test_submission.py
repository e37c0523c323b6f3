"""A student's answer as text: every file becomes code or one clear sentence, and reading it runs and follows nothing."""

import codecs
import json
import os
import socket
from pathlib import Path

import pytest

from grader.cohort import Task, find
from grader.course import load
from grader.submission import MAX_BYTES, MAX_PARTS, Chunk, InputError, Submission, without_magics

ROOT = Path(__file__).resolve().parents[2]


def code(source, **nbgrader):
    return {
        "cell_type": "code",
        "source": source,
        "metadata": {"nbgrader": nbgrader} if nbgrader else {},
        "outputs": [],
    }


def notebook(*cells, **changes):
    content = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": list(cells), **changes}
    return Submission.from_bytes(json.dumps(content).encode(), "a.ipynb")


def sources(submission):
    return [chunk.source for chunk in submission.chunks]


@pytest.mark.parametrize(
    ("content", "source"),
    [
        (b"x = 1\n", "x = 1\n"),
        (codecs.BOM_UTF8 + b"x = 1\n", "x = 1\n"),
        ("n = 'é🧬'\n".encode(), "n = 'é🧬'\n"),
        ("# coding: latin-1\nn = 'é'\n".encode("latin-1"), "# coding: latin-1\nn = 'é'\n"),
        ("#!/usr/bin/python\n# -*- coding: cp1252 -*-\nn = '€'\n".encode("cp1252"), None),
        ("# vim: set fileencoding=iso-8859-15 :\nn = '€'\n".encode("iso-8859-15"), None),
        (codecs.BOM_UTF8 + b"# coding: utf-8\nx = 1\n", "# coding: utf-8\nx = 1\n"),
        (b"# coding: ascii\nx = 1\n", "# coding: ascii\nx = 1\n"),
        (b"x = 1\r\ny = 2\r\n", "x = 1\r\ny = 2\r\n"),
        (b"x = '\0'", "x = '\0'"),
        (b"def broken(:\n", "def broken(:\n"),
    ],
)
def test_modules_are_read_in_the_encoding_they_name(content, source):
    read = Submission.from_bytes(content, "a.py")
    assert read.problem == ""
    assert [chunk.label for chunk in read.chunks] == ["a.py"]
    text = read.chunks[0].source
    assert text == source if source else "€" in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b" \n\t\r\n", "empty"),
        (b"x = '\xe9'\n", "UTF-8"),
        (b"x = 1\n\n\ny = '\xe9'\n", "UTF-8"),
        ("x = 1\n".encode("utf-16"), "UTF-8"),
        (b"# coding: nonsense\n", "UTF-8"),
        (codecs.BOM_UTF8 + b"# coding: latin-1\n", "UTF-8"),
        (b"# coding: ascii\nx = '\xe9'\n", "UTF-8"),
        *(
            (f"# coding: {name}\nx = 1\n".encode(), "UTF-8")
            for name in ("rot13", "punycode", "idna", "undefined", "zlib")
        ),
        *(
            (f"# coding: {name}\nx = '\\d'\n".encode(), "UTF-8")
            for name in ("unicode_escape", "utf-7", "utf-16", "hex")
        ),
        (b"# coding: " + b"x" * 100_000, "UTF-8"),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_what_is_not_text_is_a_problem_that_says_what_to_do(content, words):
    read = Submission.from_bytes(content, "a.py")
    assert read.chunks == ()
    assert words in read.problem
    assert len(read.problem) < 400


def test_hostile_text_is_not_decoded_by_a_slow_codec():
    read = Submission.from_bytes(b"# coding: punycode\n" + b"a" * 10**6 + b"-" + b"zz" * 10**6, "a.py")
    assert "punycode" in read.problem


def test_cells_come_in_order_with_their_position_as_label():
    read = notebook(code("a = 1"), {"cell_type": "markdown", "source": "# b"}, code(""), code(["c = 1\n", "d = 2"]))
    assert [(chunk.label, chunk.source) for chunk in read.chunks] == [("cell 1", "a = 1"), ("cell 4", "c = 1\nd = 2")]


def test_solution_and_locked_cells_are_required_and_scratch_cells_are_not():
    read = notebook(code("a", solution=True), code("b", locked=True, grade=False), code("c"), code("d", solution=False))
    assert [chunk.required for chunk in read.chunks] == [True, True, False, False]


def test_graded_cells_are_never_run():
    read = notebook(
        code("a = 1", solution=True), code("grade()", grade=True, locked=True), code("x", grade=True, solution=True)
    )
    assert sources(read) == ["a = 1"]


@pytest.mark.parametrize("role", [None, [], "solution", 1, {}, {"solution": "yes", "grade": []}])
def test_metadata_that_somebody_has_broken_is_no_error(role):
    read = notebook({"cell_type": "code", "source": "a = 1", "metadata": {"nbgrader": role}})
    assert sources(read) == ["a = 1"]


@pytest.mark.parametrize(
    "content",
    [
        b"not json", b"[]", b"null", b"3", b'"x"', b"{}", b'{"nbformat": 3, "cells": []}', b'{"nbformat": 4}', b"\xff\xfe",
        b'{"nbformat": "4", "cells": []}', b'{"nbformat": 4, "cells": 1}', b'{"nbformat": 4, "cells": [1]}',
        b'{"nbformat": 4, "cells": [{}]}', b'{"nbformat": 4, "cells": [{"cell_type": "code"}]}',
        b'{"nbformat": 4, "cells": [{"cell_type": "code", "source": 1}]}',
        b'{"nbformat": 4, "cells": [{"cell_type": "code", "source": [1]}]}',
        b'{"nbformat": 4, "cells": [{"cell_type": "code", "source": "x", "metadata": null}]}',
        b"[" * 100_000, b'{"nbformat":' + b"9" * 5000 + b"}", b'{"nbformat": 4, "cells": [' + b'{"a":' * 50_000,
    ],
    ids=lambda content: repr(content[:60]),
)  # fmt: skip
def test_what_is_not_a_notebook_is_a_problem(content):
    read = Submission.from_bytes(content, "a.ipynb")
    assert read.chunks == ()
    assert "notebook" in read.problem or "UTF-8" in read.problem


def test_a_notebook_that_would_fill_the_memory_is_not_parsed(monkeypatch):
    monkeypatch.setattr(json, "loads", None)
    content = b'{"nbformat": 4, "cells": [' + b"[]," * MAX_PARTS + b"1]}"
    assert "parts: clear its outputs" in Submission.from_bytes(content, "a.ipynb").problem


def test_a_notebook_with_a_large_output_is_read():
    cell = {**code("a = 1"), "outputs": [{"output_type": "stream", "text": "x" * 50 * 2**20}]}
    assert sources(notebook(cell)) == ["a = 1"]


def test_a_notebook_without_code_has_nothing_to_run():
    assert notebook().chunks == ()
    assert notebook().problem == ""


def test_a_bom_before_a_notebook_is_no_problem():
    content = json.dumps({"nbformat": 4, "cells": [code("a = 1")]}).encode()
    assert sources(Submission.from_bytes(codecs.BOM_UTF8 + content, "a.ipynb")) == ["a = 1"]


@pytest.mark.parametrize(
    ("cell", "left"),
    [
        ("%matplotlib inline\nx = 1", "pass\nx = 1"),
        ("if x:\n    !rm -rf /\n    y = 1", "if x:\n    pass\n    y = 1"),
        ("!pip install torch", "pass"),
        ("\t%cd ..", "\tpass"),
        ("%%bash\nrm -rf /", ""),
        ("%%time\nx = 1", "pass\nx = 1"),
        ("%%capture out --no-stderr\nx = 1", "pass\nx = 1"),
        ("%%timeit\nx = 1", ""),
        ("\n  %%writefile answer.py\nx = 1", ""),
        ("x = 7 % 2\ny = x != 1", None),
        ("x = (7\n     % two)", None),
        ("x = [1\n!= 2]", None),
        ("get_ipython().system('ls')", None),
    ],
)
def test_magics_are_blanked_and_lines_keep_their_numbers(cell, left):
    text = without_magics(cell)
    assert text == (cell if left is None else left)
    assert not text or text.count("\n") == cell.count("\n")


def test_hostile_text_for_the_magics_takes_linear_time():
    assert without_magics("x" + " " * 10**6 + "\n" * 10**6 + " " * 10**6 + "%" * 10**6).count("\n") == 10**6


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Submission("a", (Chunk("a", "x"),)), Submission("a", (Chunk("a", "y"),))),
        (Submission("a", (Chunk("a", "x"),)), Submission("a", (Chunk("b", "x"),))),
        (Submission("a", (Chunk("a", "x"),)), Submission("a", (Chunk("a", "x", False),))),
        (Submission("a", (Chunk("a", "xy"),)), Submission("a", (Chunk("a", "x"), Chunk("a", "y")))),
        (Submission("a"), Submission("a", problem="empty")),
    ],
)
def test_the_digest_tells_apart_whatever_may_change_the_verdict(one, other):
    assert one.digest != other.digest
    assert len(one.digest) == 64


def test_a_lone_surrogate_has_a_digest():
    read = notebook(code("x = '\ud800'"))
    assert len(read.digest) == 64


def test_a_file_is_read_like_its_bytes(tmp_path):
    path = tmp_path / "a.py"
    path.write_bytes(codecs.BOM_UTF8 + b"x = 1\n")
    assert Submission.from_file(path) == Submission.from_bytes(path.read_bytes(), "a.py")


@pytest.mark.parametrize("name", ["a.txt", "a", "a.py.zip", "a.PY", "gone.py", "gone.ipynb", "folder.py"])
def test_a_wrong_call_is_one_clear_line(tmp_path, name):
    (tmp_path / "folder.py").mkdir()
    for existing in ("a.txt", "a", "a.py.zip", "a.PY"):
        (tmp_path / existing).write_text("x = 1")
    with pytest.raises(InputError) as caught:
        Submission.from_file(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_too_large_is_not_read_whole(tmp_path):
    path = tmp_path / "a.py"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    assert "larger than" in Submission.from_file(path).problem
    with path.open("wb") as file:  # sparse
        file.truncate(1 << 40)
    assert "larger than" in Submission.from_file(path).problem


def test_links_pipes_sockets_and_devices_are_not_read(tmp_path):
    secret = tmp_path / "secret.py"
    secret.write_text("answer = 42")
    (tmp_path / "link.py").symlink_to(secret)
    (tmp_path / "endless.py").symlink_to("/dev/zero")
    (tmp_path / "nowhere.py").symlink_to("gone")
    (tmp_path / "self.py").symlink_to("self.py")
    os.mkfifo(tmp_path / "pipe.py")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(tmp_path / "socket.py"))
        for name in ("link", "endless", "nowhere", "self", "pipe", "socket"):
            read = Submission.from_file(tmp_path / f"{name}.py")
            assert read.chunks == ()
            assert "not a regular file" in read.problem


def test_in_a_cohort_neither_a_linked_file_nor_a_linked_folder_leads_to_the_reference(tmp_path):
    course = load(ROOT)
    exercise = course.exercise("3.1")
    hidden = course.reference(exercise)
    for student, link, target in (
        ("file", f"{exercise.module}.py", hidden),
        ("folder", exercise.folder, hidden.parent),
    ):
        (tmp_path / student).mkdir()
        (tmp_path / student / link).symlink_to(target)
        read = Task(student, exercise, find(tmp_path / student, exercise)).submission()
        assert read.chunks == ()
        assert "link" in read.problem
