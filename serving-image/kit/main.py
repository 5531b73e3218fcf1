"""The frozen program's beginning."""

import sys

from bloomery_serving.__main__ import main

sys.exit(main(sys.argv[1:]))
