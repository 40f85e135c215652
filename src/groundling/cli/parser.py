"""The parser of the command line: a wrong call is one line, with what may have been meant."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterator
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """An argument parser that ends a wrong call with one line and exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, what may have been meant and where help is, and exit."""
        hint = _meant(self, message)
        told = f"{hint} see `{self.prog} --help`" if hint else f"see `{self.prog} --help`"
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}; {told}\n")


def _meant(parser: argparse.ArgumentParser, message: str) -> str:
    """`did you mean --seed?` for a word that is close to what the parser knows; else empty."""
    if found := re.search(r"invalid choice: '?([^'\s]+)'?", message):
        said, known = found[1], list(_choices(parser))
    elif found := re.search(r"unrecognized arguments: .*?(--[^\s=]+)", message):
        said, known = found[1], [name for name in _options(parser) if name.startswith("--")]
    else:
        return ""
    close = difflib.get_close_matches(said, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else ""


def _choices(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if action.choices is not None:
            yield from map(str, action.choices)


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The options of a parser and of the commands below it."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _options(below)
