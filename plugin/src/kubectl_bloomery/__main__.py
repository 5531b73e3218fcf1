"""Entry point of ``python -m kubectl_bloomery``."""

from kubectl_bloomery.main import main

# The worker processes of ``check`` import this module again.
if __name__ == "__main__":
    main()
