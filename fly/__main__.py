"""`python -m fly` is the `fly` command."""

from fly.cli import main

raise SystemExit(main())
