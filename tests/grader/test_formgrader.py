"""Formgrader over a released course folder, as an instructor's browser shows it."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from grader import course as manifest
from grader.release import release_notebooks

pytest.importorskip("nbgrader")

CHROMIUM = shutil.which("chromium")
HOUSE = Path(__file__).parents[2]
SCREENSHOT = HOUSE / "build" / "formgrader.png"

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)"),
    pytest.mark.filterwarnings("ignore"),  # nbgrader's, nbconvert's and SQLAlchemy's own
]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """The address of a Jupyter server with formgrader, over Session 3 as released from this very repository."""
    course = manifest.load(HOUSE)
    root = release_notebooks(course, course.session(3), tmp_path_factory.mktemp("formgrader") / "nb")
    home, token = tmp_path_factory.mktemp("home"), secrets.token_hex()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = home / "log"
    with open(log, "w") as file:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root", "--ip=127.0.0.1"),
                *(f"--port={port}", f"--ServerApp.root_dir={root}", f"--IdentityProvider.token={token}"),
                "--ServerApp.port_retries=0",
            ],
            cwd=root,
            env={**os.environ, "HOME": str(home), "JUPYTER_CONFIG_DIR": str(home), "JUPYTER_RUNTIME_DIR": str(home)},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        until = time.monotonic() + 60
        address = f"http://127.0.0.1:{port}"
        while True:
            try:
                urllib.request.urlopen(f"{address}/api/status?token={token}", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.2)
        yield f"{address}/formgrader?token={token}"
    finally:
        server.terminate()
        server.wait(20)


def test_the_assignment_page_lists_the_session(url, tmp_path):
    SCREENSHOT.parent.mkdir(exist_ok=True)
    SCREENSHOT.unlink(missing_ok=True)
    page = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *(f"--user-data-dir={tmp_path}", "--window-size=1200,760", "--virtual-time-budget=20000"),
            *(f"--screenshot={SCREENSHOT}", "--dump-dom", url),
        ],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert "Manage Assignments" in page.stdout, page.stderr
    assert 'data-order="session_03_nn_module"' in page.stdout  # a row of the table
    assert SCREENSHOT.stat().st_size > 5_000
