"""Runs a command beside N busy processes, one pinned to each core in turn; its output and exit code.

python -m compare.neighbours N COMMAND...
"""

import os
import subprocess
import sys


def busy(core):
    """A child that adds numbers on `core` until it is killed."""
    child = os.fork()
    if child == 0:
        os.sched_setaffinity(0, {core})
        number = 1
        while True:
            number = number * 1103515245 + 12345 & 0xFFFFFFFF
    return child


def main():
    cores = sorted(os.sched_getaffinity(0))
    children = [busy(cores[i % len(cores)]) for i in range(int(sys.argv[1]))]
    try:
        return subprocess.run(sys.argv[2:], check=False).returncode
    finally:
        for child in children:
            os.kill(child, 9)
            os.waitpid(child, 0)


if __name__ == "__main__":
    sys.exit(main())
