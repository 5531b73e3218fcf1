"""``python -m bloomery_operator``."""

import sys

from bloomery_operator.main import main

sys.exit(main())
