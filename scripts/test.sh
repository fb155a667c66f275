#!/bin/sh
# All tests on the main interpreter, then what must replay alike on each other one that is installed.
# Arguments go to pytest.
set -eu

UV=${UV:-uv}
NO_TESTS=5 # pytest's exit code

.venv/bin/python -m pytest -x -q "$@"

# A pyenv shim may be on PATH for a version that is not switched on: only what runs counts.
interpreter() {
    for python in "$(command -v "python$1" || true)" "$HOME/.pyenv/versions/$1".*/bin/python3; do
        if [ -x "$python" ] && "$python" -c 'import ensurepip, sqlite3' 2>/dev/null; then
            echo "$python"
            return
        fi
    done
}

suites=
for suite in tests/core tests/engines; do
    [ ! -d "$suite" ] || suites="$suites $suite"
done
[ -n "$suites" ] || exit 0

main=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
for version in 3.12 3.13; do
    [ "$version" != "$main" ] || continue
    python=$(interpreter "$version")
    [ -n "$python" ] || continue
    venv=.venv-$version
    UV_PROJECT_ENVIRONMENT=$venv "$UV" sync --quiet --frozen --no-python-downloads --python "$python"
    echo "Python $version:$suites"
    # `-o testpaths` gives way to paths among the arguments.
    "$venv/bin/python" -m pytest -x -q -p no:cacheprovider -o testpaths="$suites" "$@" || [ $? -eq $NO_TESTS ]
done
