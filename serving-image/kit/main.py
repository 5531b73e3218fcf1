"""The entry point of the frozen program."""

import sys

from bloomery_serving.cli import main

sys.exit(main(sys.argv[1:]))
