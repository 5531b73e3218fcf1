"""``python -m kubectl_bloomery``."""

from kubectl_bloomery.main import main

# The processes in which `check` looks at many images import this again.
if __name__ == "__main__":
    main()
