#!/usr/bin/env bash
# Gradescope runs this once, as root, when it builds the autograder's image (Ubuntu 24.04 or newer: Python 3.11 is needed).
set -euo pipefail
AUTOGRADER=${AUTOGRADER:-/autograder}
cd "$AUTOGRADER/source"

export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install -y --no-install-recommends bubblewrap libseccomp2 python3 python3-venv
if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "Python 3.11 or newer is needed: choose a newer base image" >&2
    exit 1
fi

# requirements.lock pins the version of torch; which build of it is installed is decided by the index it comes from. For the
# build without CUDA, which is some gigabytes smaller, name its index here: export PIP_EXTRA_INDEX_URL=...
python3 -m venv "$AUTOGRADER/venv"
"$AUTOGRADER/venv/bin/pip" install --no-cache-dir --disable-pip-version-check -r requirements.lock
"$AUTOGRADER/venv/bin/pip" install --disable-pip-version-check --no-deps --no-build-isolation --editable .

# Submissions run as another user, who needs Python and the grader and must not read the suites nor the references.
chmod -R a+rX "$AUTOGRADER/venv" grader fixtures
chmod -R go-rwx tests reference
