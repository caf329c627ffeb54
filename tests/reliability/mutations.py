"""Damaged files for the fuzz of the data sources: whole ones of every kind, and what becomes of them by a seed."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, features

KINDS = ("truncated", "bits flipped", "wrong header", "bytes replaced", "huge numbers", "piece repeated", "spliced")
_HUGE = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)


def mutate(rng: np.random.Generator, kind: str, data: bytes, other: bytes) -> bytes:
    """`data` damaged in one way; `other` is a whole file of another kind."""
    if kind == "truncated":
        return data[: int(len(data) * rng.random() ** 2)]
    work = bytearray(data)
    # Most of what matters stands in front or at the end.
    spot = [rng.integers(len(work)), min(int(rng.exponential(40)), len(work) - 1)]
    spot += [max(0, len(work) - 1 - int(rng.exponential(40)))]
    at = int(rng.choice(spot))
    if kind == "bits flipped":
        for place in rng.integers(len(work), size=rng.integers(1, 9)).tolist() + [at]:
            work[place] ^= 1 << int(rng.integers(8))
    elif kind == "wrong header":
        work[: rng.integers(1, 64)] = rng.bytes(int(rng.integers(1, 64)))
    elif kind == "bytes replaced":
        length = int(rng.integers(1, 64))
        work[at : at + length] = rng.bytes(length)
    elif kind == "huge numbers":
        size, order = int(rng.choice([2, 4, 8])), "big" if rng.random() < 0.5 else "little"
        work[at : at + size] = (int(_HUGE[rng.integers(len(_HUGE))]) & ((1 << 8 * size) - 1)).to_bytes(size, order)
    elif kind == "piece repeated":
        piece = bytes(work[at : at + int(rng.integers(1, 4096))])
        work[at:at] = piece * int(rng.integers(1, 20))
    else:
        cut = int(rng.integers(len(other)))
        work[at:] = other[cut:]
    return bytes(work)


def _photo(seed: int, height: int = 40, width: int = 52) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def _bytes(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def images() -> list[bytes]:
    """Whole image files of every format and of the modes that are read in ways of their own."""
    photo = _photo(0)
    wide = Image.fromarray((np.arange(40 * 52, dtype=np.uint16) * 31).reshape(40, 52))
    exif = Image.Exif()
    exif[0x0112] = 6
    found = [
        _bytes(photo, "JPEG"),
        _bytes(photo, "JPEG", quality=95, subsampling=0),
        _bytes(photo, "JPEG", progressive=True),
        _bytes(photo, "JPEG", exif=exif),
        _bytes(photo.convert("L"), "JPEG"),
        _bytes(photo.convert("CMYK"), "JPEG"),
        _bytes(photo, "PNG"),
        _bytes(photo.convert("P"), "PNG", transparency=3),
        _bytes(photo.convert("RGBA"), "PNG", exif=exif),
        _bytes(wide, "PNG"),
        _bytes(photo, "GIF"),
        _bytes(photo, "GIF", save_all=True, append_images=[_photo(1)]),
        _bytes(photo, "BMP"),
        _bytes(photo, "PPM"),
        _bytes(photo, "TIFF"),
        _bytes(photo, "TIFF", compression="tiff_lzw"),
        _bytes(wide, "TIFF", compression="tiff_adobe_deflate"),
        npy(np.asarray(photo)),
    ]
    modern = (("webp", "WEBP", {}), ("webp", "WEBP", {"lossless": True}), ("jpg_2000", "JPEG2000", {}))
    found += [_bytes(photo, form, **options) for name, form, options in modern if features.check(name)]
    found += [_bytes(photo, "AVIF")] if features.check("avif") else []
    return found + photographs()


def photographs(most: int = 3) -> list[bytes]:
    """The smallest of the photographs beside the project, where they are."""
    shards = sorted(Path(os.environ.get("MIM_JAX_PHOTOS", "")).glob("*.tar"))[:1]
    found = []
    for shard in shards:
        with tarfile.open(shard) as opened:
            found += [opened.extractfile(member).read() for member in opened if member.name.endswith((".jpg", ".JPEG"))]
    return sorted(found, key=len)[:most]


def npy(array: np.ndarray) -> bytes:
    """An array as a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def tar(style: int = tarfile.PAX_FORMAT, count: int = 4) -> bytes:
    """A WebDataset shard of images and labels, with long names, a folder and a link among them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=style) as shard:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        shard.addfile(folder)
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        shard.addfile(link)
        for i in range(count):
            name = f"folder/{'long' * 40 if i == 1 else ''}{i}"
            for extension, data in (("jpg", _bytes(_photo(i, 12, 12), "JPEG")), ("cls", str(i).encode())):
                member = tarfile.TarInfo(f"{name}.{extension}")
                member.size = len(data)
                shard.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def parquet(**options) -> bytes:
    """Images and labels in Hugging Face's layout, in two row groups."""
    import pyarrow
    from pyarrow import parquet as pq

    rows = [{"bytes": _bytes(_photo(i, 12, 12), "PNG"), "path": f"{i}.png"} for i in range(6)]
    buffer = io.BytesIO()
    pq.write_table(pyarrow.table({"image": rows, "label": list(range(6))}), buffer, row_group_size=3, **options)
    return buffer.getvalue()


def arrayrecord() -> bytes:
    """Encoded images in one array_record file."""
    from mim_jax.data.convert import write_arrayrecord

    records = ({"image": _bytes(_photo(i, 12, 12), "PNG"), "label": i, "name": f"{i}.png"} for i in range(5))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "x.arrayrecord")
        write_arrayrecord(records, path)
        return Path(path).read_bytes()


def maps() -> list[bytes]:
    """Label maps: a palette's numbers, grey ones, 16 bits, and an array."""
    labels = (np.arange(12 * 12) % 7).reshape(12, 12)
    grey = Image.fromarray(labels.astype(np.uint8))
    palette = grey.convert("P")
    wide = Image.fromarray(labels.astype(np.uint16))
    return [_bytes(grey, "PNG"), _bytes(palette, "PNG"), _bytes(wide, "PNG"), npy(labels.astype(np.int32))]


def beside_a_map(folder: Path) -> None:
    """The image to `maps`."""
    (folder / "images").mkdir(exist_ok=True)
    (folder / "maps").mkdir(exist_ok=True)
    (folder / "images" / "x.png").write_bytes(_bytes(_photo(0, 12, 12), "PNG"))


def cache(folder: Path, fill: Callable[[str, str], object]) -> list[bytes]:
    """A disk cache of decoded pixels, made by `fill` (source, folder of the cache), and what it is called."""
    (folder / "whole").mkdir(exist_ok=True)
    (folder / "whole" / "x.npy").write_bytes(npy(np.zeros((6, 12, 12, 3), np.uint8)))
    fill(f"npy:{folder}/whole/x.npy", str(folder / "cache"))
    return [path.read_bytes() for path in (folder / "cache").glob("*.pixels")]


# family -> (name of the file, spec of the source on it, whole files)
FAMILIES: dict[str, tuple[str, str, Callable[[], list[bytes]]]] = {
    "image": ("x.png", "folder:{}", images),
    "tar": ("x.tar", "wds:{}/*.tar", lambda: [tar(), tar(tarfile.GNU_FORMAT), tar(tarfile.USTAR_FORMAT, 1)]),
    "parquet": ("x.parquet", "parquet:{}/*.parquet", lambda: [parquet(), parquet(compression="zstd", version="1.0")]),
    "arrayrecord": ("x.arrayrecord", "arrayrecord:{}/*.arrayrecord", lambda: [arrayrecord()]),
    "map": ("maps/x.png", "folder:{}/images?map={}/maps", maps),
    "npy": (
        "x.npy",
        "npy:{}/x.npy",
        lambda: [npy(np.zeros((6, 12, 12, 3), np.uint8)), npy(np.ones((9, 12, 12), "f4"))],
    ),
}
