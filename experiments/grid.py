"""Run an experiment: every cell of its grid becomes a row of one comparison table.

python experiments/grid.py                              the built-in demo
python experiments/grid.py report --data DIR            a question of this folder, on your images
python experiments/grid.py --data DIR --batch-size 16 32 --freeze none features
"""

import sys
from pathlib import Path

from bioimg.cli.main import exit_process, run_grid

PROGRAM_FILE = Path(__file__)
if not PROGRAM_FILE.with_name(
    "demo.py"
).exists():  # `ray submit` copies this file alone to the head, where `ray up` put the others
    PROGRAM_FILE = Path("~/bioimg/experiments/grid.py").expanduser()

if __name__ == "__main__":
    exit_process(run_grid(PROGRAM_FILE, sys.argv[1:]))
