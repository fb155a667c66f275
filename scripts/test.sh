#!/bin/sh
# All tests: on the main interpreter, side by side; and what must replay alike on each other one that is installed.
# With arguments, which go to pytest, only what they say, one after another.
set -eu

UV=${UV:-uv}
LOGS=.pytest_cache/logs

if [ $# -gt 0 ]; then
    exec .venv/bin/python -m pytest "$@"
fi

# A pyenv shim may be on PATH for a version that is not switched on: only what runs counts.
interpreter() {
    for python in "$(command -v "python$1" || true)" "$HOME/.pyenv/versions/$1".*/bin/python3; do
        if [ -x "$python" ] && "$python" -c 'import ensurepip, sqlite3' 2>/dev/null; then
            echo "$python"
            return
        fi
    done
}

# The crash suite prints what it killed where, which a worker of pytest-xdist would keep to itself; the demo promises to
# end within 30 s, and has the machine for itself.
DEMO=tests/cli/test_demo.py
# Most tests wait for the disk, or for processes of their own.
WORKERS=$(.venv/bin/python -c 'import os; print(2 * (os.cpu_count() or 1))')
.venv/bin/python -m pytest -x -q -n "$WORKERS" --dist worksteal --ignore tests/crash --ignore "$DEMO"

mkdir -p "$LOGS"
main=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
running=
trap 'for other in $running; do kill "${other#*:}" 2>/dev/null || true; done' EXIT
for version in 3.12 3.13; do
    [ "$version" != "$main" ] || continue
    python=$(interpreter "$version")
    [ -n "$python" ] || continue
    venv=.venv-$version
    UV_PROJECT_ENVIRONMENT=$venv "$UV" sync --quiet --frozen --no-python-downloads --python "$python"
    "$venv/bin/python" -m pytest -x -q -p no:cacheprovider tests/core tests/engines >"$LOGS/$version" 2>&1 &
    running="$running $version:$!"
done

.venv/bin/python -m pytest -x -q tests/crash

for other in $running; do
    running=${running#* "$other"}
    code=0
    wait "${other#*:}" || code=$?
    echo "Python ${other%:*}: tests/core tests/engines"
    cat "$LOGS/${other%:*}"
    [ $code -eq 0 ] || exit $code
done

.venv/bin/python -m pytest -x -q "$DEMO"
