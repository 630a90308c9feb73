"""Options of commands that are numbers with ends."""

import math
from typing import Any

import click


class NumberRange(click.FloatRange):
    """A FloatRange that refuses NaN, which is neither below its least value nor above its largest one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number
