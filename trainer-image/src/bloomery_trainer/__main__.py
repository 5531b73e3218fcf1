"""``python -m bloomery_trainer``."""

import sys

from bloomery_trainer.cli import main

if __name__ == "__main__":
    sys.exit(main())
