"""``python -m oneticket.cli``."""

from oneticket.cli import main

if __name__ == "__main__":
    main()
