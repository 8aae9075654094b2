"""Run an experiment: every cell of its grid becomes a row of one comparison table.

python experiments/grid.py                              the built-in demo
python experiments/grid.py DATA                         the demo's question on your images
python experiments/grid.py report --data DATA           a question of this folder, on your images
python experiments/grid.py DATA --batch-size 16 32 --freeze none features

`bioimg compare` is the same program.
"""

import sys
from pathlib import Path

from bioimg.cli.main import exit_process, run_grid

if __name__ == "__main__":
    exit_process(run_grid(Path(__file__), sys.argv[1:]))
