"""``python -m dreamenv`` is the command line."""

import sys

from dreamenv.cli import main

sys.exit(main())
