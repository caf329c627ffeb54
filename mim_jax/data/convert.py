"""Writes data sets in forms that are fast to read at random: array_record files, or a TensorFlow Datasets folder."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Iterable
from typing import Any

import numpy as np

from mim_jax.data.sources import Record, Source, open_source
from mim_jax.data.sources.arrayrecord import pack
from mim_jax.errors import DataError
from mim_jax.replacing import replacing


def write_arrayrecord(records: Iterable[Record], path: str | os.PathLike[str]) -> int:
    """Writes records to one array_record file, and returns their number; the file appears when it is whole."""
    from array_record.python.array_record_module import ArrayRecordWriter

    count = 0
    with replacing(path) as temporary:
        # One record a group: reading record i then decompresses nothing else.
        writer = ArrayRecordWriter(str(temporary), "group_size:1")
        try:
            for record in records:
                writer.write(pack(record))
                count += 1
        finally:
            writer.close()
    return count


def to_arrayrecord(spec: str, folder: str | os.PathLike[str], shard_size: int = 10_000) -> list[str]:
    """Copies a data source to `folder`/data-00000-of-00007.arrayrecord, ..., images as they are stored.

    shard_size: records a file. Returns the paths; read them by `arrayrecord:FOLDER`. Raises DataError.
    """
    source = open_source(spec)
    shards = -(-len(source) // shard_size)
    os.makedirs(folder, exist_ok=True)
    paths = []
    for shard in range(shards):
        paths.append(os.path.join(folder, f"data-{shard:05}-of-{shards:05}.arrayrecord"))
        rows = range(shard * shard_size, min(len(source), (shard + 1) * shard_size))
        write_arrayrecord((source[i] for i in rows), paths[-1])
    return paths


def to_tfds(splits: dict[str, str], name: str, data_dir: str | os.PathLike[str], version: str = "1.0.0") -> str:
    """Prepares a TensorFlow Datasets data set from encoded images, without TensorFlow.

    splits: split name -> spec of a data source, such as {"train": "folder:photos/train"}. Returns the folder, which
    `tfds:NAME:SPLIT?data_dir=DATA_DIR` and any other reader of TensorFlow Datasets opens.

    Raises:
        DataError: a source of arrays (encoding them would need TensorFlow), or the data set is there already.
    """
    import tensorflow_datasets as tfds

    sources = {split: open_source(spec) for split, spec in splits.items()}
    target = os.path.join(os.path.expanduser(os.fspath(data_dir)), name, version)
    if os.path.exists(target):
        raise DataError(f"'{target}' is there already; choose another name or version")
    labelled = all(source.labelled for source in sources.values())
    features: dict[str, Any] = {"image": tfds.features.Image(shape=(None, None, None))}
    if labelled:
        features["label"] = _label_feature(tfds, sources)
    scratch = tempfile.mkdtemp()
    try:
        builder = _builder_class(tfds, name, version, features, sources)(data_dir=data_dir, file_format="array_record")
        builder.download_and_prepare(
            download_dir=scratch, download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _label_feature(tfds: Any, sources: dict[str, Source]) -> Any:
    classes = next((source.classes for source in sources.values() if source.classes), None)
    if classes:
        return tfds.features.ClassLabel(names=list(classes))
    highest = max(int(source[i]["label"] or 0) for source in sources.values() for i in range(len(source)))
    return tfds.features.ClassLabel(num_classes=highest + 1)


def _builder_class(tfds: Any, name: str, version: str, features: dict[str, Any], sources: dict[str, Source]) -> type:
    """A builder of that name; made here because TFDS names a data set by its class."""

    def info(self: Any) -> Any:
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def split_generators(self: Any, manager: Any) -> Any:
        del manager
        return {split: self._generate_examples(source) for split, source in sources.items()}

    def generate_examples(self: Any, source: Source) -> Any:
        for i in range(len(source)):
            record = source[i]
            if isinstance(record["image"], np.ndarray):
                raise DataError(
                    f"data source '{source.spec}' holds arrays, which TFDS cannot encode without TensorFlow; "
                    "copy them by `mim-jax data convert`"
                )
            example: dict[str, Any] = {"image": io.BytesIO(record["image"])}
            yield i, example | ({"label": record["label"]} if "label" in features else {})

    body = {
        "VERSION": tfds.core.Version(version),
        "name": name,
        "_info": info,
        "_split_generators": split_generators,
        "_generate_examples": generate_examples,
    }
    return type("Converted", (tfds.core.GeneratorBasedBuilder,), body, skip_registration=True)
