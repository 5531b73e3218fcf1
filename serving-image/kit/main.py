"""The frozen program's beginning."""

import sys

from bloomery_serving.cli import main

sys.exit(main(sys.argv[1:]))
