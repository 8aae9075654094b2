"""Images listed in a table or stored in one file, and public sets by name."""

import hashlib
import http.server
import sys
import threading
import zipfile
from multiprocessing.pool import ThreadPool
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from bioimg.config import DatasetConfig, SplitConfig
from bioimg.data import SUBSETS, download, load_dataset, public_datasets
from bioimg.data.npz_dataset import list_npz
from bioimg.errors import UserError
from support.image_folders import (
    find_images,
    medmnist_arrays,
    write_image_folder,
    write_noise_image,
)


def table(folder, rows, header="path,label,group,split", name="set.csv"):
    folder.mkdir(exist_ok=True)
    for row in rows:
        write_noise_image(folder / row.split(",")[0], seed=hash(row) % 1000)
    (folder / name).write_text("\n".join([header, *rows]) + "\n")
    return folder / name


ROWS = ["img/2.png,b,q,val", "img/1.png,a,p,train", "deep/3.tif,07,p,test"]


def test_table_gives_all_columns_in_path_order(tmp_path):
    listing = find_images(table(tmp_path, ROWS))
    assert (listing.name, listing.paths) == ("set", ("deep/3.tif", "img/1.png", "img/2.png"))
    assert listing.classes == ("07", "a", "b")
    assert [listing.classes[label] for label in listing.labels] == ["07", "a", "b"]
    assert listing.groups == ("p", "p", "q")
    assert [SUBSETS[part] for part in listing.subsets] == ["test", "train", "val"]


def test_parquet_and_tsv_equal_csv(tmp_path):
    listing = find_images(table(tmp_path, ROWS))
    columns = dict(
        zip(
            ("path", "label", "group", "split"),
            map(list, zip(*(r.split(",") for r in ROWS), strict=True)),
            strict=True,
        )
    )
    parquet.write_table(pa.table(columns), tmp_path / "set.parquet")
    (tmp_path / "set.tsv").write_text((tmp_path / "set.csv").read_text().replace(",", "\t"))
    for suffix in ("parquet", "tsv"):
        other = find_images(tmp_path / f"set.{suffix}")
        assert (other.paths, other.groups, other.classes) == (
            listing.paths,
            listing.groups,
            listing.classes,
        )
        assert other.labels.tolist() == listing.labels.tolist()


def test_labels_may_be_numbers_in_parquet(tmp_path):
    write_noise_image(tmp_path / "1.png")
    write_noise_image(tmp_path / "2.png")
    parquet.write_table(
        pa.table({"path": ["1.png", "2.png"], "label": [1, 0]}), tmp_path / "set.parquet"
    )
    assert find_images(tmp_path / "set.parquet").classes == ("0", "1")


def test_group_and_split_columns_are_optional(tmp_path):
    listing = find_images(table(tmp_path, ["1.png,a", "2.png,b"], header="path,label"))
    assert listing.groups is None
    assert listing.subsets is None


def test_columns_can_be_renamed(tmp_path):
    file = table(tmp_path, ["1.png,a,x", "2.png,b,y"], header="file,diagnosis,patient")
    listing = find_images(file, columns="path=file, label=diagnosis, group=patient")
    assert (listing.classes, listing.groups) == (("a", "b"), ("x", "y"))


def test_group_pattern_replaces_group_column(tmp_path):
    assert find_images(table(tmp_path, ROWS), group_pattern=r"(\d)").groups == ("3", "1", "2")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            "file,label\n1.png,a\n",
            "the value of `columns` is 'path', but must be one of: file, label. The table ",
        ),
        ("path,label,group\n1.png,a,\n2.png,b,x\n", "rows without a group: 1"),
        ("path,label\n1.png,a\n2.png,\n1.png, \n", "rows without a label: 2, 3"),
        ("path,label\n,a\n2.png,b\n", "rows without a path: 1"),
        ("path,label\n1.png,a\n./1.png,b\n", r"paths that are listed twice: 1\.png"),
        ("path,label\n1.png,a\nno.png,b\n", r"files that don't exist below .*: no\.png"),
        (
            "path,label,split\n1.png,a,train\n2.png,b,tets\n",
            "values of the split that aren't train, val or test: tets",
        ),
        ("path,label\n1.png,a\n2.png,a\n", "holds one class, 'a', but must hold at least two"),
        ("path,label\n1.png,a\n2.png,#N/A\n", "errors of Excel in place of a label: #N/A"),
        ("path,label,group\n1.png,a,x\n2.png,b,#REF!\n", "errors of Excel in place of a group"),
        ("path,label\n", "holds no rows"),
        ("", "can't be read"),
        ("path,label\n1.png,a,b,c\n", "can't be read"),
    ],
)
def test_invalid_table_is_refused(tmp_path, text, error):
    for name in "12":
        write_noise_image(tmp_path / f"{name}.png")
    (tmp_path / "set.csv").write_text(text)
    with pytest.raises(UserError, match=error) as caught:
        find_images(tmp_path / "set.csv")
    assert "set.csv" in str(caught.value)


def test_unknown_column_role_is_refused(tmp_path):
    with pytest.raises(
        UserError,
        match=r"the value of `columns` is 'pat', but must be one of: path, .* Did you mean 'path'?",
    ):
        find_images(table(tmp_path, ROWS), columns="pat=file")


def test_many_offenders_are_cut_to_ten_and_counted(tmp_path):
    (tmp_path / "set.csv").write_text(
        "path,label\n" + "".join(f"{n}.png,{n % 2}\n" for n in range(25))
    )
    with pytest.raises(
        UserError, match=r"don't exist below .*: 0\.png, .*9\.png, \.\.\. \(25 in all\)"
    ):
        find_images(tmp_path / "set.csv")


@pytest.mark.parametrize("shape", [(9, 9), (9, 9, 3)])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_medmnist_file_is_read_with_its_split(tmp_path, shape, save):
    content = medmnist_arrays(shape=shape)
    save(tmp_path / "toy.npz", **content)
    config = DatasetConfig(data=str(tmp_path / "toy.npz"), image_size=9)
    dataset = load_dataset(config, SplitConfig(split="folder"))
    images = dataset.images
    assert (images.name, images.classes, images.paths[20]) == ("toy", ("0", "1"), "val/000000")
    expected = np.concatenate([content[f"{name}_images"] for name in SUBSETS])
    expected = expected if len(shape) == 3 else np.repeat(expected[..., None], 3, 3)
    np.testing.assert_array_equal(images.pixels, expected)
    assert dataset.split.val.tolist() == list(range(20, 40))


@pytest.mark.parametrize("word", ["valid", "dev", "Validation"])
def test_npz_with_other_words_for_parts_loses_none(tmp_path, word):
    content = medmnist_arrays()
    for kind in ("images", "labels"):
        content[f"{word}_{kind}"] = content.pop(f"val_{kind}")
    np.savez(tmp_path / "toy.npz", **content)
    dataset = load_dataset(DatasetConfig(data=str(tmp_path / "toy.npz"), image_size=9))
    assert dataset.images.paths[20] == f"{word}/000000"
    np.testing.assert_array_equal(
        dataset.images.pixels[dataset.split.val][..., 0], content[f"{word}_images"]
    )


@pytest.mark.parametrize("labels", [[-1, 0, 1], [0, 1, 5]])
def test_number_without_a_name_is_its_own_class(tmp_path, labels):
    content = medmnist_arrays()
    content["train_labels"] = np.resize(labels, 20)
    np.savez(tmp_path / "toy.npz", **content)
    listing = list_npz(tmp_path / "toy.npz", ("benign", "bad"))
    names = {-1: "-1", 0: "benign", 1: "bad", 5: "5"}
    assert listing.classes == tuple(names[label] for label in labels)
    assert find_images(tmp_path / "toy.npz").classes == tuple(map(str, labels))


def test_16_bit_npz_is_scaled_as_files_are(tmp_path):
    np.savez(tmp_path / "toy.npz", **medmnist_arrays(dtype=np.uint16))
    images = load_dataset(DatasetConfig(data=str(tmp_path / "toy.npz"), image_size=9)).images
    assert images.pixels.dtype == np.uint8
    assert images.scaling_limits is not None


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda c: c.pop("val_labels"), "lacks val_labels"),
        (
            lambda c: [c.pop(f"{n}_images") for n in SUBSETS],
            r"lacks train_images \(arrays of a MedMNIST file\)",
        ),
        (
            lambda c: c.update(train_images=np.zeros((20, 9, 9, 9), np.uint8)),
            r"shape \(20, 9, 9, 9\), but must hold 2D ones",
        ),
        (
            lambda c: c.update(train_labels=np.zeros((20, 3), np.uint8)),
            "one whole number for each of 20 images",
        ),
        (lambda c: c.update(train_labels=np.zeros(20)), "one whole number for each of 20 images"),
        (
            lambda c: c.update({f"{n}_labels": np.zeros(20, int) for n in SUBSETS}),
            "holds one class but must hold at least two",
        ),
        (
            lambda c: c.update(unlabelled_images=np.zeros((20, 9, 9), np.uint8)),
            "holds images of no part train, val or test: unlabelled_images",
        ),
        (lambda c: c.update(dev_images=c["val_images"]), "holds val images twice: dev, val"),
        (lambda c: c.update(train_labels=np.array([object()] * 20)), "can't be read"),
        (lambda c: c.update(train_images=np.asfortranarray(c["train_images"])), "Fortran"),
    ],
)
def test_npz_in_other_layout_is_refused(tmp_path, change, error):
    content = medmnist_arrays()
    change(content)
    np.savez(tmp_path / "toy.npz", **content)
    with pytest.raises(UserError, match=error):
        find_images(tmp_path / "toy.npz")


def test_damaged_npz_is_refused(tmp_path):
    (tmp_path / "text.npz").write_text("text")
    np.savez_compressed(tmp_path / "toy.npz", **medmnist_arrays(count=200))
    whole = bytearray((tmp_path / "toy.npz").read_bytes())
    whole[2000:2400] = bytes(400)  # inside train_images
    (tmp_path / "toy.npz").write_bytes(whole)
    for name in ("text", "toy"):
        with pytest.raises(UserError, match=f"{name}.npz, can't be read"):
            load_dataset(DatasetConfig(data=str(tmp_path / f"{name}.npz"), image_size=9))


@pytest.fixture
def kather_zip(tmp_path, monkeypatch):
    """A small archive with the layout of Zenodo's, whose md5 replaces the real one's."""
    names = [
        f"0{number}_{name}"
        for number, name in enumerate(
            ("TUMOR", "STROMA", "C", "D", "E", "F", "ADIPOSE", "EMPTY"), 1
        )
    ]
    for label, name in enumerate(names):
        for number in range(7):
            write_noise_image(
                tmp_path / "tiles_5000" / name / f"1_CRC-Prim-HE-0{number % 3 + 1}_{number}.tif",
                seed=label * 10 + number,
            )
    with zipfile.ZipFile(tmp_path / "kather.zip", "w") as archive:
        for path in sorted(tmp_path.glob("tiles_5000/*/*")):
            archive.write(path, path.relative_to(tmp_path))
    monkeypatch.setattr(
        public_datasets,
        "KATHER_MD5",
        hashlib.md5((tmp_path / "kather.zip").read_bytes()).hexdigest(),
    )
    return tmp_path / "kather.zip"


def test_kather2016_is_read_from_local_zip_with_slides(kather_zip):
    listing = find_images(f"kather2016:{kather_zip}")
    assert (listing.name, len(listing.classes), len(listing)) == ("kather2016", 8, 56)
    assert sorted(set(listing.groups)) == ["01", "02", "03"]
    kather_zip.unlink()
    assert len(find_images("kather2016")) == 56  # from the cache


def test_kather2016_6_excludes_fat_and_background(kather_zip):
    listing = find_images(f"kather2016-6:{kather_zip}")
    assert listing.classes == ("01_TUMOR", "02_STROMA", "03_C", "04_D", "05_E", "06_F")
    assert len(listing) == len(listing.files) == 42


def test_zip_with_other_checksum_is_refused(kather_zip, tmp_path):
    with zipfile.ZipFile(kather_zip, "a") as archive:
        archive.writestr("more", "x")
    with pytest.raises(
        UserError,
        match=r"isn't the archive: its md5 is .* Download it again from https://zenodo.org",
    ):
        find_images(f"kather2016:{kather_zip}")
    with pytest.raises(
        UserError, match=r"must name the zip from https://zenodo.org.*: no such file"
    ):
        find_images(f"kather2016:{tmp_path}/no.zip")


class _Server(http.server.BaseHTTPRequestHandler):
    """Serves bytes from the start of a Range, and breaks off after `limit` bytes."""

    content, limit, ranges, second = b"", None, [], None

    def do_GET(self):
        asked = self.headers.get("Range")
        type(self).ranges.append(asked)
        if self.second:  # gives a second request time to arrive
            self.second.wait(2 if len(self.ranges) == 1 else 0)
            self.second.set()
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        self.wfile.write(
            self.content[start : start + self.limit] if self.limit else self.content[start:]
        )

    def log_message(self, format, *args):
        pass


@pytest.fixture
def server():
    handler = type("Handler", (_Server,), {"ranges": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        handler.address = f"http://127.0.0.1:{running.server_port}/set.zip"
        yield handler
        running.shutdown()
        thread.join()


def test_interrupted_download_resumes(kather_zip, server, monkeypatch):
    monkeypatch.setattr(download, "BLOCK_BYTES", 500)
    server.content, server.limit = kather_zip.read_bytes(), 2000
    with pytest.raises(
        UserError, match=r"can't be downloaded: .* name the file: --data kather2016:FILE.zip"
    ):
        find_images(f"kather2016:{server.address}")
    server.limit = None
    assert len(find_images(f"kather2016:{server.address}")) == 56
    assert server.ranges == [None, "bytes=2000-"]


def test_concurrent_downloads_fetch_once(kather_zip, server):
    server.content, server.second = kather_zip.read_bytes(), threading.Event()
    asked = (f"kather2016:{server.address}",) * 2
    with ThreadPool(2) as pool:
        assert [len(found) for found in pool.map(find_images, asked)] == [56, 56]
    assert server.ranges == [None]


def test_download_with_other_content_is_refused(kather_zip, server):
    server.content = kather_zip.read_bytes() + b"x"
    with pytest.raises(UserError, match="can't be downloaded: MD5 hash"):
        find_images(f"kather2016:{server.address}")
    server.content = kather_zip.read_bytes()
    assert len(find_images(f"kather2016:{server.address}")) == 56


def test_medmnist_set_is_downloaded_with_class_names(tmp_path, server, monkeypatch):
    np.savez(tmp_path / "toy.npz", **medmnist_arrays())
    server.content = (tmp_path / "toy.npz").read_bytes()
    about = {
        "url_64": server.address,
        "MD5_64": hashlib.md5(server.content).hexdigest(),
        "label": {"0": "benign", "1": "bad"},
    }
    info = ModuleType("medmnist.info")
    toy = {**about, "python_class": "ToyMNIST", "task": "binary-class"}
    info.INFO = {
        "toy": toy,
        "solid": {**toy, "python_class": "Toy3D"},
        "many": {**toy, "task": "multi-label, binary-class"},
    }
    monkeypatch.setitem(sys.modules, "medmnist", ModuleType("medmnist"))
    monkeypatch.setitem(sys.modules, "medmnist.info", info)
    listing = find_images("medmnist:toy_64")
    assert (listing.classes, listing.name, len(listing)) == (("benign", "bad"), "toy_64", 60)
    message = r"'medmnist:toy', but must be one of: medmnist:toy_64. Did you mean 'medmnist:toy_64'"
    with pytest.raises(UserError, match=message):
        find_images("medmnist:toy")


def test_missing_medmnist_package_gives_install_hint(monkeypatch):
    monkeypatch.setitem(sys.modules, "medmnist.info", None)
    with pytest.raises(
        UserError,
        match=r"needs the package medmnist. Install it with `pip install '\.\[medmnist\]'`",
    ):
        find_images("medmnist:pathmnist")


def test_misspelt_set_name_gives_a_hint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = r"'kater2016', but there is no such folder or file.*: phantom, "
    with pytest.raises(UserError, match=rf"{message}.* Did you mean 'kather2016'\?"):
        find_images("kater2016")


def test_parent_folder_can_name_the_group(tmp_path):
    for label in "ab":
        for patient in ("p1", "p2", "p3"):
            write_noise_image(tmp_path / label / patient / "x.png")
    assert find_images(tmp_path, group_pattern="parent").groups == ("p1", "p2", "p3") * 2
    with pytest.raises(
        UserError, match="if images are directly in the folder of their class, as they are in: a, b"
    ):
        find_images(write_image_folder(tmp_path / "flat"), group_pattern="parent")
