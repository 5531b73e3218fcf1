"""``python -m bloomery_serving``: serves the model that the environment names.

``python -m bloomery_serving kit`` packs an offline kit, and ``start`` serves an unpacked one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Run one command; return the process' exit code."""
    # ONNX Runtime reports its use to its maker, unless it is told not to before it is loaded.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    # Each imports its own: a server is to be ready in a second.
    match arguments:
        case []:
            from bloomery_serving import server

            return server.main()
        case ["kit", *rest]:
            from bloomery_serving.kit import pack

            return pack.main(rest)
        case ["start", *rest]:
            from bloomery_serving.kit import start

            return start.main(rest)
    print(f"There is no command {arguments[0]!r}: there are kit and start, and none, which serves.", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
