"""The grain graph: chunk numbers -> chunks, in threads or worker processes -> batches, one of them always ready."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from typing import Any

import grain
from absl import flags

from mim_jax.data.chunks import ChunkLoader, join

ENDLESS = 1 << 60


def batches(
    loader: ChunkLoader, *, first: int, last: int | None, workers: int, threads: int, prefetch: int
) -> grain.DatasetIterator[Any]:
    """Batches of the steps first..last-1, in order.

    Depends on `workers` and `threads` in speed only. At most `prefetch` batches are held in chunks, and two whole.
    `threads` are shared out among the workers.
    """
    end = ENDLESS if last is None else last * loader.per_batch
    chunks = grain.MapDataset.range(first * loader.per_batch, end).map(loader)
    shares = max(1, workers)
    held = -(-prefetch * loader.per_batch // shares)
    threads = min(held, -(-threads // shares))
    # A worker's ready chunks wait in its queue to the main process, not also behind its threads.
    waiting = threads if workers else held
    dataset = chunks.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=waiting))
    if workers:
        if not flags.FLAGS.is_parsed():  # grain asks its flags about worker processes; ours is not an absl program
            flags.FLAGS.mark_as_parsed()
        # Half, because grain holds as many again on this side of the queue.
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=-(-held // 2))
        dataset = dataset.mp_prefetch(options, worker_init_fn=_follow_parent)
    dataset = dataset.batch(loader.per_batch, batch_fn=join)
    return iter(grain.experimental.ThreadPrefetchIterDataset(dataset, prefetch_buffer_size=1))


def _follow_parent(worker: int, count: int) -> None:
    """Lets the main process alone decide when a worker ends.

    Signals often reach the whole process group, while the main process still wants to save; and a main process that
    is killed must not leave workers behind, waiting for ever to hand over a batch.
    """
    del worker, count
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
