"""`python -m zerogen`, the same as the command `zerogen`."""

from zerogen.cli import main

if __name__ == "__main__":
    main()
