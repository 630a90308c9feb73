"""Converts a log to the engine's columns, as if a producer had sent the clicks in time order to one partition."""

import numpy as np

from export.log.log import Log
from stream.engine.columns import Columns, Encoder
from stream.events import Partition
from stream.past.clicks import Names, item_hashes, type_hashes

LOG = Partition("log", 0)


def log_columns(log: Log, encoder: Encoder) -> Columns:
    """The n clicks of a log in time order. The offset of a click is its position in that order."""
    rows = log.in_time_order()
    event_type = log.event_type[rows]
    items = encoder.items(log.items)
    new_form = encoder.new_forms(log.items, items)
    categories = encoder.categories([*log.categories, None])  # the last one, None, is for clicks without a category
    return Columns(
        owners=[(LOG, user.encode()) for user in log.users],
        owner=log.user[rows].astype(np.intp),
        offset=np.arange(len(log)),
        time_ms=log.time_ms[rows],
        item=items[log.item[rows]],
        event_type=encoder.event_types(log.event_types)[event_type],
        hold=encoder.holds(log.event_types)[event_type],
        category=categories[np.full(len(log), -1) if log.category is None else log.category[rows]],
        names=Names(item_hashes(log.items)[log.item[rows]], type_hashes(log.event_types)[event_type]),
        new_form=None if new_form is None else new_form[log.item[rows]],
    )
