"""Files made to hurt: bombs, tars that point elsewhere, pipes, wrong schemas, empty shards. Each is named."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from mim_jax import recipes
from mim_jax.data import train_batches
from mim_jax.data.convert import to_arrayrecord
from mim_jax.data.sources import open_source
from mim_jax.errors import DataError

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import mutations  # noqa: E402

PEAK = 600 << 20


def saved(mode: str, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (64, 64)).save(buffer, form, **options)
    return buffer.getvalue()


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Zeros; `chunks` come before the pixels."""
    rows = zlib.compressobj(9)
    pixels = b"".join(rows.compress(bytes(width + 1)) for _ in range(min(height, 3000))) + rows.flush()
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        *chunks,
        (b"IDAT", pixels),
        (b"IEND", b""),
    ]
    body = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def patched(data: bytes, at: int, *values: bytes) -> bytes:
    work = bytearray(data)
    for value in values:
        work[at : at + len(value)] = value
        at += len(value)
    return bytes(work)


def bombs() -> dict[str, tuple[bytes, str]]:
    """Small files that ask for very much, and what is said of each."""
    jpeg = saved("L", "JPEG", progressive=True)
    frame, scan = jpeg.index(b"\xff\xc2"), jpeg.index(b"\xff\xda")
    second = jpeg.index(b"\xff\xda", scan + 2)
    tiff = saved("L", "TIFF", compression="tiff_adobe_deflate")
    tiff = tiff.replace(struct.pack("<HHIHxx", 0x100, 3, 1, 64), struct.pack("<HHII", 0x100, 4, 1, 60_000))
    tiff = tiff.replace(struct.pack("<HHIHxx", 0x101, 3, 1, 64), struct.pack("<HHII", 0x101, 4, 1, 60_000))
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (400000, 400000, 3), }".ljust(117) + "\n"
    text = b"x\0\0" + zlib.compress(bytes(200 << 20), 9)
    many = jpeg[:scan] + jpeg[scan:second] * 3000 + jpeg[second:]
    return {
        "png": (png(60_000, 60_000), "60000 x 60000 pixels, more than data.max_pixels"),
        "text.png": (png(64, 64, (b"zTXt", text)), "cannot be decoded|is not an image"),
        "profile.png": (png(64, 64, (b"iCCP", text)), ""),
        "jpg": (patched(jpeg, frame + 5, b"\xff\xdc\xff\xdc"), "65500 x 65500 pixels"),
        "scans.jpg": (many, "scans, more than any encoder writes"),
        "gif": (patched(saved("L", "GIF"), 6, b"\xff\xff\xff\xff"), "65535 x 65535 pixels"),
        "bmp": (patched(saved("L", "BMP"), 18, struct.pack("<ii", 50_000, 50_000)), "50000 x 50000 pixels"),
        "tiff": (tiff, "60000 x 60000 pixels"),
        "webp": (saved("RGB", "WEBP", lossless=True), ""),
        "ppm": (b"P5 99999 99999 255\n", "99999 x 99999 pixels"),
        "npy": (b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode(), "take 480000000000 bytes"),
    }


def in_worker(code: str, folder: Path) -> dict:
    """What `code` puts into `said`, and the most memory that its process took."""
    whole = f"import sys; sys.path.insert(0, {str(HERE)!r})\nfrom fuzz_worker import *\n{code}\n"
    whole += "print(json.dumps({'said': said, 'peak': peak()}))"
    ran = subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, timeout=120, cwd=folder)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return json.loads(ran.stdout.splitlines()[-1])


def test_bombs_are_refused_before_they_are_decoded(tmp_path, fault):
    made = bombs()
    for name, (data, _) in made.items():
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / f"bomb.{name}").write_bytes(data)
        assert len(data) < 4 << 20
    code = f"said = [read_all('folder:{tmp_path}/photos', fast)[1] for fast in (False, True)]"
    found = in_worker(code, tmp_path)
    wrong = {}
    for name, (_, sentence) in made.items():
        for said in found["said"]:
            own = [line for line in said if f"'bomb.{name}'" in line]
            if sentence and not any(part in line for line in own for part in sentence.split("|")):
                wrong[name] = own
    survived = len(made) - len(wrong)
    fault("decompression bombs", tried=len(made), survived=survived, lost="the bombs, each named")
    assert wrong == {}
    assert found["peak"] < PEAK


def test_a_shard_that_takes_too_much_is_refused(tmp_path, fault, monkeypatch):
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({"image": [bytes(40 << 20)] * 2})
    parquet.write_table(table, tmp_path / "x.parquet", compression="zstd", use_dictionary=False)
    size = (tmp_path / "x.parquet").stat().st_size
    monkeypatch.setattr("mim_jax.data.sources.parquet.MEGABYTES", 64)
    with pytest.raises(DataError, match=r"row group 0 of '.*x.parquet' takes 80 MB, more than the 64 MB") as caught:
        open_source(f"parquet:{tmp_path}")
    fault("a parquet file that decompresses to too much", tried=1, survived=1, lost="nothing: the run does not start")
    assert size < 1 << 20 and "\n" not in str(caught.value)


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
    member = tarfile.TarInfo(name)
    member.type, member.size, member.linkname = kind, len(data), link
    tar.addfile(member, io.BytesIO(data))


def test_a_tar_that_points_elsewhere_writes_nothing_there(tmp_path, fault):
    """Names are names: nothing is ever extracted. Links and devices are no records."""
    (tmp_path / "in").mkdir()
    image = saved("RGB", "PNG")
    with tarfile.open(tmp_path / "in" / "x.tar", "w") as tar:
        for name in ("../../climbs.png", "/tmp/mim_jax_absolute.png", "a/../../b.png", "plain.png", "..\\windows.png"):
            add(tar, name, image)
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
            add(tar, f"kind{kind.decode()}.png", kind=kind, link="/etc/passwd")
    before = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")}
    source = open_source(f"wds:{tmp_path}/in")
    assert [bytes(source[i]["image"]) == image for i in range(len(source))] == [True] * 4  # the last begins with a dot
    paths = to_arrayrecord(f"wds:{tmp_path}/in", tmp_path / "out", shard_size=2)
    after = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")}
    whole = open_source(f"arrayrecord:{tmp_path}/out")
    fault("a tar with '../', links and devices", tried=10, survived=10, lost="nothing: members are never extracted")
    assert after - before == {Path("out"), *(Path("out") / Path(path).name for path in paths)}
    assert len(whole) == 4 and not Path("/tmp/mim_jax_absolute.png").exists()


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        (b"\xff" * 12, "takes -1 bytes|not a whole, uncompressed tar file"),
        (b"\x80" + b"\x7f" + b"\xff" * 10, "but .* are left"),
        (b"77777777777\0", "takes 8589934591 bytes"),
    ],
)
def test_sizes_in_a_tar_are_not_believed(tmp_path, size, sentence):
    data = bytearray(mutations.tar(tarfile.USTAR_FORMAT, 1))
    at = data.index(b"folder/0.jpg")
    data[at + 124 : at + 136] = size
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(DataError, match=sentence):
        open_source(f"wds:{tmp_path}/x.tar")


def test_files_that_are_none(tmp_path, fault):
    """Pipes are not waited for, devices not read, links in a circle not followed."""
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(saved("RGB", "PNG"))
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "nothing.png").symlink_to("missing")
    (folder / "again").symlink_to(folder)
    (folder / "folder.png").mkdir()
    source = open_source(f"folder:{folder}")
    assert [source.name(i) for i in range(len(source))] == ["a.png", "nothing.png", "pipe.png", "zero.png"]
    said = []
    for i in range(1, 4):
        with pytest.raises(DataError) as caught:
            source[i]
        said.append(str(caught.value))
    fault("pipes, devices, dangling and circular links among the images", tried=5, survived=5, lost="nothing")
    missing = "cannot be read: No such file or directory; make it readable, or remove it"
    assert said == [missing, "is not an ordinary file; remove it", "is not an ordinary file; remove it"]


def test_wrong_schemas(tmp_path, fault):
    import pyarrow
    from pyarrow import parquet

    image = [{"bytes": saved("RGB", "PNG"), "path": "x"}]
    cases = {
        "text": ({"image": ["text"], "label": [0]}, "no column of encoded images"),
        "text-in-struct": ({"image": [{"bytes": "text"}], "label": [0]}, "no column of encoded images"),
        "list": ({"image": [[b"x"]], "label": [0]}, "no column of encoded images"),
        "empty": ({"image": pyarrow.array([], pyarrow.binary()), "label": pyarrow.array([], "int64")}, "no records"),
        "null": ({"image": pyarrow.nulls(3), "label": [0, 1, 2]}, "no column of encoded images"),
        "extension": (
            {"image": pyarrow.ExtensionArray.from_storage(pyarrow.json_(), pyarrow.array(["{}"]))},
            "no column",
        ),
    }
    for name, (columns, sentence) in cases.items():
        parquet.write_table(pyarrow.table(columns), tmp_path / f"{name}.parquet")
        with pytest.raises(DataError, match=sentence):
            open_source(f"parquet:{tmp_path}/{name}.parquet")
    parquet.write_table(pyarrow.table({"image": image, "label": [1]}), tmp_path / "two-0.parquet")
    parquet.write_table(pyarrow.table({"image": image, "label": ["b"]}), tmp_path / "two-1.parquet")
    with pytest.raises(DataError, match=r"two-1.parquet' has other columns than .*two-0"):
        open_source(f"parquet:{tmp_path}/two-*.parquet")
    fault("parquet files with a wrong schema", tried=len(cases) + 1, survived=len(cases) + 1, lost="nothing")


@pytest.mark.parametrize(
    ("scheme", "name"), [("wds", "x.tar"), ("parquet", "x.parquet"), ("arrayrecord", "x.arrayrecord"), ("npy", "x.npy")]
)
def test_a_shard_of_no_bytes_is_named(tmp_path, scheme, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=rf"data source '{scheme}:.*{name}'.*{name}'") as caught:
        open_source(f"{scheme}:{tmp_path}/{name}")
    assert "\n" not in str(caught.value)


def test_bad_members_of_a_shard_are_skipped_with_their_names(tmp_path):
    """From a damaged member to the line in the run's list, by the policy that holds for every bad record."""
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for i in range(40):
            add(tar, f"{i:02}.png", saved("RGB", "PNG") if i not in (7, 23) else (b"", bombs()["png"][0])[i == 23])
    data = ConfigDict(recipes.data())
    data.source = data.eval_source = f"wds:{tmp_path}/x.tar"
    data.views.image.size, data.threads, data.on_error, data.max_bad_fraction = (8, 8), 2, "skip", 0.1
    batches = train_batches(data, seed=0, batch_size=40, bad_records=tmp_path / "bad.txt")
    batch = next(batches)
    batches.close()
    lines = sorted((tmp_path / "bad.txt").read_text().splitlines(), key=lambda line: int(line.split("\t")[0]))
    assert batch["image"].shape == (40, 8, 8, 3) and not {7, 23} & set(np.unique(batch["index"]).tolist())
    assert ["x.tar/07" in lines[0], "zero bytes" in lines[0]] == [True] * 2
    assert ["x.tar/23" in lines[1], "max_pixels" in lines[1]] == [True] * 2


def test_a_damaged_header_is_not_the_end_of_a_tar(tmp_path):
    """Python's own reader takes it for that, and the records behind it would be missing unnoticed."""
    whole = mutations.tar(tarfile.GNU_FORMAT)
    broken = bytearray(whole)
    broken[whole.index(b"folder/2.jpg")] ^= 1
    for damaged, sentence in ((bytes(broken), "bad checksum"), (whole[: whole.index(b"folder/2.jpg")], "cut off")):
        (tmp_path / "x.tar").write_bytes(damaged)
        with pytest.raises(DataError, match=f"x.tar' is .*{sentence}"):
            open_source(f"wds:{tmp_path}/x.tar")


def test_a_sampling_factor_of_zero(tmp_path):
    from mim_jax.data.jpeg import header

    data = bytearray(saved("RGB", "JPEG"))
    at = data.index(b"\xff\xc0")
    assert header(bytes(data)) is not None
    for i in range(3):
        data[at + 11 + 3 * i] = 0x10
    assert header(bytes(data)) is None  # Pillow refuses it in its own words
