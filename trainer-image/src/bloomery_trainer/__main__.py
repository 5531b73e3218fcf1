"""``python -m bloomery_trainer``."""

import sys

if __name__ == "__main__":
    if sys.argv[1:2] == ["prepare"]:
        # Before the imports of the command line, which take as long as the server's own.
        from bloomery_trainer.prepare import fork_server

        fork_server.start_early()

    from bloomery_trainer.cli import main

    sys.exit(main())
