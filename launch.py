#!/usr/bin/env python3
"""The command line: python launch.py COMMAND [flags]. `python launch.py` lists the commands."""

from inception.cli.main import main, run_process

if __name__ == "__main__":
    run_process(main)
