"""The garbage collector of processes that do nothing but serve, or take messages."""

from __future__ import annotations

import gc

_THRESHOLDS = (50_000, 20, 50)


def spare_the_collector() -> None:
    """Keep the garbage collector from the work that it would do in vain.

    What is loaded by now stays, and neither a request nor a batch of messages leaves cycles: their
    objects go when their last reference does. By default the collector would look at everything
    after every 700 objects, a third of a busy process's time. For processes that are ours alone.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
