"""Datasets and batches from plain dicts or ConfigDicts, as tests write them."""

from psdiff_jax.data import iterators, pipeline, records
from psdiff_jax.data.options import DataOptions
from psdiff_jax.options import read


def data_options(values) -> DataOptions:
    return read(DataOptions, values, "config.data")


def open_dataset(values):
    return records.open_dataset(data_options(values))


def train_batches(dataset, config, *, process_index=0, process_count=1, device_count=1, **given):
    processes = iterators.Processes(process_index, process_count, device_count)
    return pipeline.train_batches(
        dataset,
        data_options(config.data),
        batch_size=config.train.batch_size,
        seed=config.seed,
        processes=processes,
        **given,
    )


def eval_batches(dataset, split, config, *, process_index=0, process_count=1, device_count=1, **given):
    processes = iterators.Processes(process_index, process_count, device_count)
    given.setdefault("batch_size", config.evaluate.batch_size)
    return pipeline.eval_batches(dataset, split, data_options(config.data), processes=processes, **given)
