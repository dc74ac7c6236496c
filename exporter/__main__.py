"""`python -m exporter`: the same as `smartstream-exporter`."""

import sys

from exporter.cli import main

sys.exit(main())
