"""python -m mim_jax"""

import sys

from mim_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
