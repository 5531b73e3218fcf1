"""``python -m bloomery_serving``."""

import sys

from bloomery_serving.server import main

sys.exit(main())
