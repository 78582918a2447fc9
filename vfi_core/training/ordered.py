"""Work done ahead, by several processes or a thread, and handed out in order, the same whoever does it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

T = TypeVar("T")


def in_order(make: Callable[[int], T], items: Sequence[int], workers: int) -> Iterator[T]:
    """``make(i)`` of each item, in order, made by ``workers`` processes; 0: by this one, one at a time.

    ``make`` pickles and returns no tensors: these travel through shared memory, of which containers have
    little. Its ValueError is raised here as it is.
    """
    made = _Made(make, items)
    ahead: Iterable[Any] = map(made.__getitem__, range(len(items)))
    if workers and items:
        # A generator of its own: the loader would otherwise draw a seed from the global one.
        g = torch.Generator()
        ahead = DataLoader(made, None, num_workers=workers, collate_fn=_as_it_is, generator=g)
    for one in ahead:
        if isinstance(one, ValueError):
            raise one
        yield one


def one_ahead(make: Callable[[int], T], items: Iterable[int]) -> Iterator[T]:
    """``make(i)`` of each item, in order; a thread makes the next one while the last is being used."""
    coming = None
    with ThreadPoolExecutor(max_workers=1) as thread:
        for item in items:
            ready, coming = coming, thread.submit(make, item)
            if ready is not None:
                yield ready.result()
        if coming is not None:
            yield coming.result()


class _Made(Dataset, Generic[T]):
    def __init__(self, make: Callable[[int], T], items: Sequence[int]) -> None:
        self.make, self.items = make, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> T | ValueError:
        # One thread, as the loader's processes have: where threads share a tensor, the last digits of
        # what is computed at their borders differ.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return self.make(self.items[index])
        except ValueError as error:
            return error  # the loader would wrap it in its own traceback
        finally:
            torch.set_num_threads(threads)


def _as_it_is(made: Any) -> Any:
    return made
