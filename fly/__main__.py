"""The `fly` command as `python -m fly`."""

from fly.cli import main

raise SystemExit(main())
