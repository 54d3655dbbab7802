"""`python -m loadtest` is `holdgate load`."""

import argparse
import sys

from loadtest import cli

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="loadtest", description=cli.DESCRIPTION, epilog=cli.EPILOG)
    cli.add_arguments(parser)
    sys.exit(cli.run(parser.parse_args()))
