"""Plans for tests, made from the command line as a user writes it."""

import argparse

from loadtest import options
from loadtest.plan import LoadPlan
from loadtest.planning import plan_of


def arguments(*words: str) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    return parser.parse_args(words)


def plan(*words: str, target: str = "127.0.0.1:1") -> LoadPlan:
    """A short run of one kind of request, with the rest as the words say."""
    base = ("--target", target, "--request", "work credits=1..20", "--warm-up", "0s", "--timeout", "2s", "--seed", "1")
    return plan_of(arguments(*base, *words))
