"""What a run changes in the caller's process, for as long as it needs it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def environment(
    values: Mapping[str, str], *, unless_set: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Environment variables for the duration of the block, and for the processes started in it.

    Arguments:
        unless_set: for variables that the user's own value wins over.
    """
    wanted = {
        **{name: value for name, value in (unless_set or {}).items() if name not in os.environ},
        **values,
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def root_handlers(*handlers: logging.Handler) -> Iterator[None]:
    """More handlers of the root logger for the duration of the block; closed after it."""
    for handler in handlers:
        logging.root.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            logging.root.removeHandler(handler)
            handler.close()


@contextmanager
def bare_loggers(family: str) -> Iterator[None]:
    """Have a logger and all below it leave what they log to the root logger during the block."""
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] == family]
    before = []
    for logger in map(logging.getLogger, [family, *names]):
        before.append((logger, list(logger.handlers), logger.propagate))
        logger.handlers = []
        logger.propagate = True
    try:
        yield
    finally:
        for logger, handlers, propagate in reversed(before):
            logger.handlers = handlers
            logger.propagate = propagate
