"""What is wrong with one adapter file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lorasweep.features.common.errors import UserError


class BadAdapterError(UserError):
    """An adapter file that cannot be used; `reason` says why, without the path."""

    def __init__(self, path: Path, reason: str) -> None:
        reason = " ".join(reason.split())  # names in a damaged file may have anything in them
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[type[BadAdapterError], tuple[Path, str]]:
        return type(self), (self.path, self.reason)  # so that it can leave a worker


class NoAdapterError(BadAdapterError):
    """A whole file that can be read and is of no adapter."""


class NoAdapterTensorsError(ValueError):
    """None of a file's tensors is of an adapter; said without the path."""


class UnreadableAdapterError(BadAdapterError):
    """The disk or the memory fails, the file may be fine; the cause says how."""


@contextmanager
def blamed(path: Path) -> Iterator[None]:
    """Whatever goes wrong inside is the fault of one file: damage has more ways than can be listed,
    and must not stop what is to be done with others."""
    try:
        yield
    except BadAdapterError:
        raise
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreadableAdapterError(path, f"cannot be read: {reason}") from error
    except NoAdapterTensorsError as error:
        raise NoAdapterError(path, str(error)) from error
    except ValueError as error:
        raise BadAdapterError(path, str(error)) from error
    except Exception as error:
        raise BadAdapterError(path, f"is damaged ({type(error).__name__}: {error})") from error
