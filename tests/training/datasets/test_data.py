"""The layouts of data that are read, and what is said of others."""

import io
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from aaserve.bundle.preprocessing import read_pixels
from aaserve.training.datasets.cifar import read_labels, read_split
from aaserve.training.datasets.data import Data, open_data
from aaserve.training.loop.stop import Stop
from aaserve.training.loop.trainer import train
from tests.helpers import encode, noise
from tests.training.tiny import CPU, epochs, recipe, run, write_cifar_100


def opened(folder: Path, **options) -> Data:
    spec = recipe(preprocessing={"resize": 20, "crop": (16, 16)}).preprocessing
    return open_data(folder, spec, **{"area": None, "device": torch.device("cpu")} | options)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for split, count in (("train", 6), ("val", 2)):
        for number, name in enumerate(("bee", "ant")):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(count):
                suffix, image_format = (("JPEG", "JPEG"), ("png", "PNG"))[index % 2]
                picture = noise(24 + index, 30, seed=100 * number + index)
                (tmp_path / split / name / f"{index}.{suffix}").write_bytes(encode(picture, image_format))
    (tmp_path / "train" / "ant" / "notes.txt").write_text("no picture")
    (tmp_path / "train" / ".cache").mkdir()
    return tmp_path


def test_cifar_100_and_cifar_10_are_read_in_their_official_form(data: Path, tmp_path: Path) -> None:
    assert read_split(data, "train").images.shape == (48, 32, 32, 3)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    red = np.zeros((2, 3, 32, 32), dtype=np.uint8)
    red[:, 0] = 255
    for number, name in enumerate([f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]):
        content = {b"data": red.reshape(2, 3072), b"labels": [number, 0]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=4))
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"airplane", b"automobile"]}))
    split = read_split(tmp_path, "train")
    assert split.images[0, 5, 7].tolist() == [255, 0, 0]
    assert split.labels.tolist() == [0, 0, 1, 0, 2, 0, 3, 0, 4, 0]
    assert read_labels(tmp_path) == ["airplane", "automobile"]


def test_folders_of_pictures_are_read_as_the_service_reads_them(folders: Path) -> None:
    data = opened(folders)
    assert data.labels == ("ant", "bee")
    assert data.training.classes.tolist() == [0] * 6 + [1] * 6
    batch = next(data.test.batches([np.array([2, 0])], ()))
    spec = recipe(preprocessing={"resize": 20, "crop": (16, 16)}).preprocessing
    bee = (folders / "val" / "bee" / "0.JPEG").read_bytes()
    np.testing.assert_array_equal(batch[0], read_pixels(bee, spec, max_pixels=10**6))


def test_batches_of_files_come_in_order_however_many_are_read_ahead(folders: Path) -> None:
    training = opened(folders).training
    alone = [next(training.batches([np.array([index])], ())) for index in range(12)]
    order = np.random.default_rng(0).permutation(12).reshape(6, 2)
    for index, batch in zip(order, training.batches(list(order), ()), strict=True):
        assert torch.equal(batch, torch.cat([alone[number] for number in index]))


def test_random_crops_differ_between_epochs_and_repeat_within_one(folders: Path) -> None:
    training = opened(folders, area=(0.2, 0.8)).training
    one, again, other = (next(training.batches([np.arange(12)], seed)) for seed in ((0, 0), (0, 0), (0, 1)))
    assert one.shape == (12, 16, 16, 3)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_a_random_crop_is_a_part_of_the_picture(tmp_path: Path) -> None:
    """A picture whose colours tell the place: red grows to the right, green downwards."""
    across = np.linspace(0, 255, 200).astype(np.uint8)
    ramp = np.stack(np.broadcast_arrays(across[None, :], across[:, None], np.uint8(0)), axis=-1)
    for inner in ("train/ramp", "train/other", "test/ramp", "test/other"):
        (tmp_path / inner).mkdir(parents=True)
        (tmp_path / inner / "0.png").write_bytes(encode(Image.fromarray(ramp), "PNG"))
    training = opened(tmp_path, area=(0.25, 0.25)).training
    areas = []
    for epoch in range(30):
        crop = next(training.batches([np.array([0])], (0, epoch)))[0].float()
        width = (crop[:, -1, 0] - crop[:, 0, 0]).mean() / 255 * 16 / 15
        height = (crop[-1, :, 1] - crop[0, :, 1]).mean() / 255 * 16 / 15
        areas.append(float(width * height))
        assert 0.7 < width / height < 1.45
    assert np.mean(areas) == pytest.approx(0.25, abs=0.02)


def test_a_network_trains_on_folders_of_pictures(folders: Path, tmp_path: Path) -> None:
    chosen = recipe(
        epochs=1,
        batch_size=4,
        preprocessing={"resize": 20, "crop": (16, 16)},
        augmentation={"resized_crop_area": (0.3, 1.0)},
    )
    assert run(chosen, folders, tmp_path / "run").images == 4
    assert len(epochs(tmp_path / "run")) == 1


def test_data_that_is_not_there_or_damaged_is_named(folders: Path, tmp_path: Path) -> None:
    picture = folders / "train" / "bee" / "1.png"
    whole = picture.read_bytes()
    picture.write_bytes(whole[:60])
    with pytest.raises(ValueError, match=r"bee/1\.png: the PNG image ends in its IDAT chunk"):
        next(opened(folders).training.batches([np.arange(12)], ()))
    picture.write_bytes(whole)
    (folders / "val" / "wasp").mkdir()
    with pytest.raises(ValueError, match="val/wasp: no class of that name"):
        opened(folders)
    for split in ("train", "test"):
        (tmp_path / "empty" / split).mkdir(parents=True)
    with pytest.raises(ValueError, match="folders named by class"):
        opened(tmp_path / "empty")
    (tmp_path / "empty" / "test").rmdir()
    with pytest.raises(FileNotFoundError, match=r"expected cifar-100-python/.*; found train"):
        opened(tmp_path / "empty")


def test_a_cifar_file_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    with pytest.raises(FileNotFoundError, match="train"):
        read_split(tmp_path, "train")
    for content in (b"", b"\x80\x04nonsense", pickle.dumps([1]), pickle.dumps({b"data": 1, b"fine_labels": []})):
        (folder / "train").write_bytes(content)
        with pytest.raises(ValueError, match="cifar-100-python/train: not a"):
            read_split(tmp_path, "train")


def test_cifar_images_and_labels_that_do_not_match_are_refused(tmp_path: Path) -> None:
    folder = write_cifar_100(tmp_path / "data") / "cifar-100-python"
    content = pickle.loads((folder / "train").read_bytes())
    (folder / "train").write_bytes(pickle.dumps(content | {b"fine_labels": content[b"fine_labels"][:-1]}, protocol=4))
    with pytest.raises(ValueError, match="cifar-100-python/train: expected a label for each of 48 images, found 47"):
        opened(tmp_path / "data")
    (folder / "train").write_bytes(pickle.dumps(content | {b"fine_labels": [100] * 48}, protocol=4))
    with pytest.raises(ValueError, match="expected labels of 100 classes in train, found others"):
        opened(tmp_path / "data")


def test_a_cifar_pickle_cannot_call_anything(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()

    class Evil:
        def __reduce__(self) -> tuple:
            return (print, ("ran",))

    (folder / "meta").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="refused"):
        read_labels(tmp_path)


BOTH = ("train", "val")


def renamed(folders: Path, old: str, new: str, splits: tuple[str, ...] = BOTH) -> None:
    for split in splits:
        (folders / split / old).rename(folders / split / new)


UNMATCHED = {
    "a class without pictures": (
        lambda folders: [(folders / split / "wasp").mkdir() for split in BOTH],
        "train/wasp: expected pictures of each class in train/, found none; add some",
    ),
    "a class without a test": (
        lambda folders: shutil.rmtree(folders / "val" / "bee"),
        "val/bee: expected pictures of each class in train/, found none",
    ),
    "a class to test alone": (
        lambda folders: renamed(folders, "bee", "wasp", ("val",)),
        "val/wasp: no class of that name in train/",
    ),
    "pictures of no class": (
        lambda folders: shutil.copy(folders / "val" / "bee" / "1.png", folders / "val" / "stray.png"),
        "val/stray.png: expected pictures in folders named by class only, found 1 in ",
    ),
    "one class": (
        lambda folders: [shutil.rmtree(folders / split / "bee") for split in BOTH],
        "train: expected two classes or more, found ant alone",
    ),
    "classes that differ in case": (
        lambda folders: [shutil.copytree(folders / split / "bee", folders / split / "Bee") for split in BOTH],
        "expected classes of different names, found ",
    ),
    "a class that cannot be printed": (
        lambda folders: renamed(folders, "bee", "b\nee"),
        "expected a name without control characters",
    ),
    "a test with the training pictures": (
        lambda folders: (shutil.rmtree(folders / "val"), (folders / "val").symlink_to(folders / "train")),
        "val: expected other pictures than those of train/, found a link to them",
    ),
}


@pytest.mark.parametrize(("change", "message"), UNMATCHED.values(), ids=UNMATCHED.keys())
def test_a_data_set_that_cannot_be_meant_is_refused(
    change: Callable[[Path], object], message: str, folders: Path
) -> None:
    change(folders)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        opened(folders)
    assert len(str(caught.value).splitlines()) == 1


def test_the_found_classes_are_printed_and_nested_pictures_belong_to_their_class(folders: Path, tmp_path: Path) -> None:
    bee = folders / "train" / "bee"
    (bee / "morning").mkdir()
    (bee / "1.png").rename(bee / "morning" / "1.jfif")
    (bee / "3.png").unlink()
    for name in ("train/__MACOSX/bee/1.png", "train/bee/._2.png", "test/bee/1.png", "train/ant/notes.txt"):
        (folders / name).parent.mkdir(parents=True, exist_ok=True)
        (folders / name).write_bytes(b"notes")
    data = opened(folders)
    assert data.labels == ("ant", "bee")
    assert data.training.classes.tolist() == [0] * 6 + [1] * 5
    assert data.found == (
        "train/: 11 pictures of 2 classes, from 5 (bee) to 6 (ant); left out: 3 hidden or system, 1 .txt",
        "val/: 4 pictures of 2 classes, 2 of each",
        "test/ is not read, since there is val/",
    )
    chosen = recipe(epochs=1, batch_size=4, preprocessing={"resize": 20, "crop": (16, 16)})
    with Progress(console=Console(file=io.StringIO())) as progress:
        train(chosen, folders, tmp_path / "run", machine=CPU, stop=Stop(), progress=progress)
    for line in data.found:
        assert line in progress.console.file.getvalue()
