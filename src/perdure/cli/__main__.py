"""`python -m perdure.cli`: the command line of this very interpreter, whatever is on PATH."""

from perdure.cli import main

if __name__ == "__main__":
    main()
