"""``python -m bloomery_operator``."""

from bloomery_operator.main import main

main()
