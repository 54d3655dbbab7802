#!/usr/bin/env bash
# Makes .venv, or brings it up to date with requirements.lock. `make` runs it when it is needed.
# PYTHON names the interpreter; by default python3.11, else a python3 that is at least 3.11.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

choose_python() {
    local candidate
    for candidate in "${PYTHON:-python3.11}" python3; do
        if is_new_enough "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "Python 3.11 or newer is needed and neither python3.11 nor python3 is one." \
        "On Debian 12: apt-get update && apt-get install python3.11-venv" \
        "Elsewhere, name one: make setup PYTHON=/path/to/python3.11"
}

if ! is_new_enough .venv/bin/python; then
    python=$(choose_python)
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python cannot make virtual environments: its ensurepip module is missing." \
            "On Debian: apt-get update && apt-get install python$version-venv"
    rm -rf .venv
    echo "setup: .venv with Python $version (a minute or two, this once)"
    "$python" -m venv .venv
fi

# --no-deps: exactly what the lock says, and `pip check` tells when the lock is short of something. Building the
# project itself needs no network, since its build tool came with the lock.
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_DEFAULT_TIMEOUT="${PIP_DEFAULT_TIMEOUT:-120}"
.venv/bin/python -m pip install --quiet --no-deps --requirement requirements.lock
.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
.venv/bin/python -m pip check >/dev/null || .venv/bin/python -m pip check
touch .venv/.setup
