"""Takes a protection out of the real code for the time of a test."""

import importlib
import inspect
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple


class Mutant(NamedTuple):
    """The real code without one protection.

    function  module:name or module:Class.name
    old, new  the text that is replaced in its source; `old` occurs once
    """

    function: str
    old: str
    new: str


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    """Replace the function in its class, or in every module of Eddy and of its tests that has it."""
    module, _, path = mutant.function.partition(":")
    owner: Any = importlib.import_module(module)
    *classes, name = path.split(".")
    for each in classes:
        owner = getattr(owner, each)
    function = getattr(owner, name)
    source = inspect.getsource(function)
    assert source.count(mutant.old) == 1, f"{mutant.old!r} is not once in {mutant.function}: mend the mutant"
    changed = source.replace(mutant.old, mutant.new)
    changed = changed if classes else textwrap.indent(changed, "    ")
    made: dict[str, Any] = {}  # the cell __class__ is for super()
    globals_ = inspect.unwrap(function).__globals__  # of its module, not of a decorator's
    exec(f"def make(__class__):\n{changed}\n    return {name}", globals_, made)
    replacement = made["make"](owner)
    ours = [m for n, m in list(sys.modules.items()) if n.startswith(("stream.", "tests."))]
    owners = [owner] if classes else [m for m in ours if vars(m).get(name) is function]
    for each in owners:
        setattr(each, name, replacement)
    try:
        yield
    finally:
        for each in owners:
            setattr(each, name, function)
