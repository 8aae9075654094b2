"""The program as a user meets it: flags, errors, what it leaves behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bioimg import runner
from bioimg.cli import grid_flags, main
from bioimg.config import TrialConfig
from bioimg.errors import UserError
from bioimg.experiment import EarlyStopping, Experiment
from bioimg.results.result_store import read_results
from support.experiments import GRID_PROGRAM, QUICK_FLAGS, run_grid_program
from support.image_folders import write_class_folders, write_grey_tiff_folder

PINNED = (
    *(
        "data",
        "model",
        "weights",
        "batch-size",
        "freeze",
        "epochs",
        "image-size",
        "learning-rate",
        "augmentation",
        "seed",
    ),
    *("split", "group-pattern", "out", "lanes", "workers", "local", "no-early-stopping"),
)


def parse(*args: str, axes: dict | None = None) -> Experiment:
    experiment = Experiment(name="grid", base=TrialConfig(), axes=axes or {})
    return grid_flags.parse_experiment_flags(experiment, args, program="grid.py", description="")[0]


# flags


def test_several_values_make_an_axis_and_one_value_replaces_it():
    experiment = parse(
        "--freeze",
        "none",
        "--batch-size",
        "8",
        "16",
        axes={"freeze": ("none", "features"), "seed": (0, 1)},
    )
    assert dict(experiment.axes) == {"seed": (0, 1), "batch_size": (8, 16)}
    assert experiment.base.freeze == "none"
    assert len(experiment.trials()) == 4


def test_flags_change_what_they_name_of_the_rule_of_early_stopping():
    assert parse().early_stopping == EarlyStopping()
    changed = parse("--grace-period", "3", "--compare-within", "weights", "freeze").early_stopping
    assert changed == EarlyStopping(grace_period=3, compare_within=("weights", "freeze"))


def test_flag_of_the_weights_is_open_until_it_is_given():
    assert parse().base.weights == TrialConfig().weights
    assert parse("--model", "resnet50").base.weights == "DEFAULT"
    assert parse("--model", "resnet50", "--weights", "none").base.weights == "none"


def test_yes_or_no_is_a_flag_without_a_value():
    assert not parse().base.skip_unreadable
    assert parse("--skip-unreadable").base.skip_unreadable


def test_folds_are_an_axis_unless_some_are_picked():
    assert dict(parse("--folds", "5").axes) == {"fold": (0, 1, 2, 3, 4)}
    for fold in (0, 3):
        picked = parse("--folds", "5", "--fold", str(fold))
        assert (picked.base.folds, picked.base.fold, dict(picked.axes)) == (5, fold, {})
    assert dict(parse("--folds", "5", "--fold", "0", "3").axes) == {"fold": (0, 3)}


def test_a_value_without_a_default_can_be_given():
    assert parse().base.group_pattern is None
    assert parse("--group-pattern", "HE-(..)").base.group_pattern == "HE-(..)"


def test_help_explains_every_field_with_its_default(capsys):
    assert run_grid_program("--help") == 0
    shown = " ".join(capsys.readouterr().out.split())
    for flag in PINNED:
        assert f"--{flag} " in shown
    assert "(default: 32 64)" in shown


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("predict", ["RESULTS", "IMAGES"]),
        ("report", ["RESULTS"]),
        ("status", ["RESULTS"]),
        ("verify", ["TABLE"]),
        ("data", ["DATA", "of multi-channel images"]),
    ],
)
def test_help_says_what_to_name_and_explains_each_flag(command, names, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bioimg", command, "--help"])
    with pytest.raises(SystemExit):
        main.main()
    shown = " ".join(capsys.readouterr().out.split())
    for name in names:
        assert name.lower() in shown.lower()
    assert not any(
        text in shown.split("positional arguments")[1].split("options")[0]
        for text in ("STR", "PATH")
    )
    assert "As of an experiment." not in shown


def test_own_images_give_the_experiment_their_name(tmp_path):
    folder = write_class_folders(tmp_path / "my-tiles", a=20, b=20)
    assert (
        run_grid_program(
            "--data", folder, *QUICK_FLAGS, "--batch-size", "8", "--out", tmp_path / "out"
        )
        == 0
    )
    results = read_results(tmp_path / "out")
    assert results.manifest["name"] == "my-tiles"
    assert results.manifest["data"]["synthetic"] is False
    assert results.trials["status"].tolist() == ["completed"]


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (".", "tiles.v2"),
        ("..", "above"),
        ("../tiles.v2", "tiles.v2"),
        ("../tiles.v2/", "tiles.v2"),
        ("list.v3.csv", "list.v3"),
    ],
)
def test_a_folder_gives_its_whole_name_and_a_file_its_stem(data, name, tmp_path, monkeypatch):
    folder = tmp_path / "above" / "tiles.v2"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    ran = []
    monkeypatch.setattr(
        "bioimg.runner.run_experiment",
        lambda experiment, *_: ran.append((experiment.name, experiment.base.split)) or 0,
    )
    assert run_grid_program("--data", data) == 0
    assert ran == [(name, "auto")]


def test_an_interrupted_grid_goes_on_and_other_commands_begin_anew(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("bioimg.runner.run_experiment", interrupted)
    assert run_grid_program() == 130
    assert "run the same command again to resume" in capsys.readouterr().err
    monkeypatch.setattr("bioimg.cli.data.audit_images", interrupted)
    monkeypatch.setattr(sys, "argv", ["bioimg", "data", "phantom"])
    assert main.main() == 130
    assert (
        capsys.readouterr().err.strip() == "Interrupted. Run the same command again to start over."
    )


# bad input: an error by its text, exit code 2, no traceback


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (
            ["--data", "./tiles"],
            "the value of `data` is './tiles', but there is no such folder or file, and it "
            "isn't one of the named sets",
        ),
        (["--data", "phantm"], "Did you mean 'phantom'?"),
        (
            ["--local", "--model", "resnext50"],
            "the value of `model` is 'resnext50', but must be one of",
        ),
        (["--local", "--weights", "TEXTURES_V3"], "Did you mean 'TEXTURES_V2'?"),
        (
            ["--local", "--weights", "lost.pth"],
            "the value of `weights` is 'lost.pth', but there is no such file",
        ),
        (["--local", "--freeze", "layer9"], "Did you mean 'layer4'?"),
        (["--augmentation", "dihedrall"], "Did you mean 'dihedral'?"),
        (["--batch-size", "0"], "the value of `batch_size` is 0, but must be `batch_size >= 1`"),
        (
            ["--batch-size", "500"],
            "the value of `batch_size` is 500, but must not be larger than the training set",
        ),
        (
            ["--batch-size", "15", "--workers", "2"],
            "the value of `batch_size` is 15, but must be a multiple of `workers`",
        ),
        (
            ["--workers", "64", "--batch-size", "64"],
            "but must be at most the number of devices, which is",
        ),
        (["--workers", "2", "--local"], "the value of `workers` is 2, but must be 1 with --local"),
        (["--folds", "3", "5"], "the value of `folds` is (3, 5), but must be one number"),
        (
            ["--data", "no-such-folder"],
            "the value of `data` is 'no-such-folder', but there is no such folder or file",
        ),
        (["--lanes", "0"], "the value of `lanes` is 0, but must be `lanes >= 1`"),
        (["reprot"], "Did you mean 'report'?"),
    ],
)
def test_a_bad_value_is_named_with_its_rule_and_the_way_out(
    args, text, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert run_grid_program(*args) == 2
    error = capsys.readouterr().err
    assert text in error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir()), "nothing may be left behind"


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--model", "resnet51"], "Did you mean 'resnet50'?"),
        (["--model", "timm:resnet51"], "Did you mean 'timm:resnet51q'?"),
        (["--weights", "TEXTURES_V3"], "Did you mean 'TEXTURES_V2'?"),
        (["--model", "resnet18", "--weights", "IMAGENET1K_V2"], "Did you mean 'IMAGENET1K_V1'?"),
        (
            ["--model", "resnet18", "resnet50", "--weights", "IMAGENET1K_V2"],
            "(`model` is 'resnet18'.) Each model is combined with each of `weights`",
        ),
        (["--model", "uni"], "hf download MahmoodLab/UNI"),
    ],
)
def test_wrong_names_are_told_before_ray_starts(args, text, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runner, "choose_executor", pytest.fail)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert run_grid_program(*args, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert text in error
    assert error.strip().count("\n") == 0


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ({}, "found in the folder of `data`"),
        ({"only": 20}, "holds one class, 'only', but must hold at least two classes"),
        ({"many": 20, "few": 3}, "few (3)"),
    ],
)
def test_a_folder_that_cannot_be_used_is_told_before_training(counts, text, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    write_class_folders(folder, **counts)
    assert run_grid_program("--data", folder, "--out", tmp_path / "out") == 2
    assert text in capsys.readouterr().err


def test_all_unreadable_images_are_named(tmp_path, capsys):
    folder = write_class_folders(tmp_path / "images", a=20, b=20)
    (folder / "a" / "3.png").write_bytes(b"not an image")
    (folder / "b" / "5.png").write_bytes((folder / "b" / "5.png").read_bytes()[:60])
    assert (
        run_grid_program(
            "--data", folder, *QUICK_FLAGS, "--batch-size", "8", "--out", tmp_path / "out"
        )
        == 2
    )
    error = capsys.readouterr().err
    assert "a/3.png" in error
    assert "b/5.png" in error


def test_weights_that_do_not_fit_are_listed(tmp_path, capsys):
    import torch

    torch.save({"conv1.weight": torch.zeros(1), "extra": torch.zeros(1)}, tmp_path / "w.pth")
    assert run_grid_program("--local", "--weights", tmp_path / "w.pth", *QUICK_FLAGS[3:]) == 2
    error = capsys.readouterr().err
    assert "missing: bn1.weight" in error
    assert (
        "(79 in all); unexpected: extra; of another shape: conv1.weight ((1,) for (64, 3, 7, 7))"
        in error
    )


def test_weights_that_cannot_be_fetched_say_where_to_put_them(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    assert (
        run_grid_program(
            *("--local", "--model", "resnet18", "--weights", "IMAGENET1K_V1"),
            *("--out", tmp_path / "out"),
        )
        == 2
    )
    error = capsys.readouterr().err
    assert (
        "the value of `weights` is 'IMAGENET1K_V1', but it isn't on this machine and can't be "
        "downloaded" in error
    )
    assert str(tmp_path / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth") in error


@pytest.mark.nightly
def test_a_folder_with_other_results_is_left_alone(tmp_path, capsys):
    folder = write_class_folders(tmp_path / "images", a=20, b=20)
    common = [*QUICK_FLAGS, "--batch-size", "8", "--out", tmp_path / "out"]
    assert run_grid_program("--data", folder, *common) == 0
    before = (tmp_path / "out" / "trials.parquet").read_bytes()
    assert run_grid_program(*common) == 2
    assert (
        "that folder holds another experiment: its name is 'images', this one's is 'demo'"
        in capsys.readouterr().err
    )
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(folder / "a" / "0.png")
    assert run_grid_program("--data", folder, *common) == 2
    assert (
        "the runs whose results it holds: 1 with other pixels (a/0.png). Restore "
        in capsys.readouterr().err
    )
    assert (tmp_path / "out" / "trials.parquet").read_bytes() == before


def test_a_folder_with_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.docx").touch()
    assert run_grid_program(*QUICK_FLAGS, "--out", tmp_path) == 2
    assert "this one holds something else" in capsys.readouterr().err


LOCKED = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")


@pytest.mark.parametrize(
    ("out", "there", "why"),
    [
        pytest.param(
            "/proc/x/y",
            "/proc",
            "",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc"),
        ),
        ("thesis.docx", "thesis.docx", "Not a directory"),
        ("thesis.docx/out", "thesis.docx", "Not a directory"),
        pytest.param("locked", "locked", "Permission denied", marks=LOCKED),
        pytest.param("locked/out/grid", "locked", "Permission denied", marks=LOCKED),
    ],
)
def test_a_folder_that_cannot_be_written_is_told_before_any_image_is_read(
    out, there, why, tmp_path, monkeypatch, capsys
):
    (tmp_path / "thesis.docx").touch()
    (tmp_path / "locked").mkdir(mode=0)
    monkeypatch.setattr(
        runner.data, "list_datasets", lambda _: pytest.fail("images were looked for")
    )
    assert run_grid_program(*QUICK_FLAGS, "--out", tmp_path / out) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert f"the value of `out` is {tmp_path / out}, but must be a writable folder" in error
    assert f"no file can be created in {tmp_path / there}: {why}" in error
    assert ". Fix that, or name another with --out." in error
    assert {path.name for path in tmp_path.iterdir()} == {"thesis.docx", "locked"}


def test_a_folder_that_is_fit_but_for_what_follows_is_not_made(tmp_path):
    assert (
        run_grid_program(*QUICK_FLAGS, "--batch-size", "500", "--out", tmp_path / "new" / "out")
        == 2
    )
    assert not (tmp_path / "new").exists()


def test_a_trial_that_fails_is_a_row_and_the_others_go_on(tmp_path):
    assert (
        run_grid_program(
            *QUICK_FLAGS,
            "--optimizer",
            "sgd",
            "--learning-rate",
            "1e30",
            "1e-3",
            "--out",
            tmp_path / "out",
        )
        == 1
    )
    rows = read_results(tmp_path / "out").trials.set_index("learning_rate")
    assert rows["status"].to_dict() == {1e30: "failed", 1e-3: "completed"}
    assert "NonFiniteLossError: the loss is" in rows.loc[1e30, "error"]
    assert (
        (tmp_path / "out" / "checkpoints" / rows.loc[1e30, "key"] / "error.txt")
        .read_text()
        .startswith("Traceback")
    )


@pytest.mark.ray
def test_from_the_shell_an_error_comes_without_a_traceback(tmp_path):
    command = [
        sys.executable,
        str(GRID_PROGRAM),
        "--data",
        str(tmp_path / "nowhere"),
        "--out",
        str(tmp_path / "out"),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: the value of `data`")
    assert "Traceback" not in ended.stderr


@pytest.mark.nightly
def test_an_interrupted_run_leaves_a_whole_table_and_goes_on_when_run_again(tmp_path):
    out = tmp_path / "out"
    command = [
        sys.executable,
        str(GRID_PROGRAM),
        *QUICK_FLAGS,
        "--epochs",
        "3",
        "--seed",
        *map(str, range(6)),
        "--out",
        str(out),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    while "completed" not in (line := process.stdout.readline()):
        assert line, process.communicate()
    process.send_signal(2)
    _, error = process.communicate()
    assert process.returncode == 130
    assert "run the same command again to resume" in error
    cut_off = read_results(out)
    assert 1 <= len(cut_off.trials) < 6
    assert not cut_off.manifest["complete"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    whole = read_results(out)
    assert len(whole.trials) == 6
    first = whole.trials.set_index("key").loc[cut_off.trials["key"][0]]
    assert first["ended_at"] == cut_off.trials["ended_at"][0], "what was done is not done again"


def table_of(folder: Path) -> Path:
    """The same as a table that names its files."""
    files = sorted(write_grey_tiff_folder(folder / "tiles").rglob("*.tif"))
    rows = [
        {
            "path": file.relative_to(folder),
            "label": file.parent.name,
            "group": f"p{int(file.stem) % 4}",
        }
        for file in files
    ]
    pd.DataFrame(rows).to_csv(folder / "tiles.csv", index=False)
    return folder / "tiles.csv"


def medmnist(folder: Path) -> Path:
    """A file like MedMNIST's, grey, with parts of its own."""
    draw, arrays = np.random.default_rng(0), {}
    for part, count in (("train", 40), ("val", 12), ("test", 12)):
        labels = np.arange(count) % 2
        arrays[f"{part}_labels"] = labels[:, None].astype(np.uint8)
        arrays[f"{part}_images"] = (
            (draw.normal(80, 20, (count, 28, 28)) + 80 * labels[:, None, None])
            .clip(0, 255)
            .astype(np.uint8)
        )
    np.savez(folder / "tinymnist.npz", **arrays)
    return folder / "tinymnist.npz"


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("make", "more"),
    [
        (write_grey_tiff_folder, []),
        (table_of, ["--split", "grouped"]),
        (medmnist, ["--split", "folder"]),
    ],
)
def test_images_of_every_source_train(make, more, tmp_path):
    (tmp_path / "data").mkdir()
    data = make(tmp_path / "data")
    fit = [
        "--epochs",
        "6",
        "--batch-size",
        "8",
        "--learning-rate",
        "0.003",
        "--precision",
        "float32",
    ]
    assert (
        run_grid_program("--data", data, *QUICK_FLAGS, *fit, *more, "--out", tmp_path / "out") == 0
    )
    row = read_results(tmp_path / "out").trials.iloc[0]
    assert row["status"] == "completed"
    assert row["best_train_accuracy"] > 0.8


def test_what_was_asked_and_with_what_is_written_down(tmp_path):
    assert run_grid_program(*QUICK_FLAGS, "--out", tmp_path / "out") == 0
    written = json.loads((tmp_path / "out" / "experiment.json").read_text())
    assert written["complete"]
    assert written["data"]["synthetic"]
    assert len(written["data"]["classes"]) == 6
    assert {"python", "bioimg", "torch", "torchvision", "ray"} <= set(written["versions"])


@pytest.mark.nightly
def test_no_group_is_in_two_parts_of_any_fold_and_where_each_image_went_is_written_down(
    tmp_path, tiles
):
    pattern = ["--split", "grouped", "--folds", "3", "--group-pattern", r"HE-(\d+)"]
    assert (
        run_grid_program(
            "--data", tiles, *QUICK_FLAGS, *pattern, "--batch-size", "32", "--out", tmp_path / "out"
        )
        == 0
    )
    images = pd.read_parquet(tmp_path / "out" / "images.parquet")
    assert images.groupby("fold")["image"].nunique().tolist() == [420, 420, 420]
    assert images["group"].nunique() == 10
    assert (images.groupby(["fold", "group"])["subset"].nunique() == 1).all()
    tested = images[images["subset"] == "test"]
    assert len(tested) == 420, "over the folds, every image tests once"
    rows = read_results(tmp_path / "out").trials
    assert rows["fold"].tolist() == [0, 1, 2]
    assert rows["split_leaks_groups"].tolist() == [False] * 3
    assert rows[["balanced_accuracy", "macro_f1"]].notna().all(axis=None)


def test_user_errors_are_value_errors():
    assert issubclass(UserError, ValueError)
