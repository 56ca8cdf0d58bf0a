"""``python -m bayes_cannon`` is the command ``bayes-cannon``."""

from bayes_cannon.cli.commands import main

if __name__ == "__main__":
    main()
