"""``python -m s2pt`` is the ``s2pt`` command."""

from s2pt_command import main

if __name__ == "__main__":
    main()
