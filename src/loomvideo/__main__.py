"""``python -m loomvideo``, which torchrun starts once on every device."""

import sys

from loomvideo.cli.main import main

sys.exit(main())
