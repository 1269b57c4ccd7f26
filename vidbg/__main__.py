"""Lets ``python -m vidbg`` do what ``vidbg`` does."""

from vidbg.cli.main import main

if __name__ == "__main__":
    main()
