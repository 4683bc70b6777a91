"""`python -m stresslev`: the command line."""

from stresslev.cli import main

if __name__ == "__main__":
    main()
