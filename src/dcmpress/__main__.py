"""`python -m dcmpress` is the `dcmpress` command."""

from dcmpress.cli import main

if __name__ == "__main__":
    main()
