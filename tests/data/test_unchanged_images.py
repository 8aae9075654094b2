"""Images of an earlier run are read again for a report that is made later."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bioimg.cli.report import ReportCommand
from bioimg.config import TrialConfig
from bioimg.data import load_dataset
from bioimg.provenance import image_assignment_rows
from bioimg.results import schema
from support.example_results import epoch_rows, prediction_rows, trial_row, write_results
from support.image_folders import write_image_folder, write_noise_image


def test_later_report_shows_unchanged_images_only(
    tmp_path: Path,
) -> None:
    config = TrialConfig(data=str(write_image_folder(tmp_path / "tiles")), image_size=8)
    dataset = load_dataset(config.dataset_config)
    images = dataset.images
    rows_of_predictions = prediction_rows(config.key, wrong=range(3), n=3, classes=2)
    rows_of_predictions = [
        {**row, "image": path} for row, path in zip(rows_of_predictions, images.paths, strict=False)
    ]
    rows = [trial_row(config, best_val_loss=0.1, test_accuracy=0.0, train_seconds=9.0)]
    path = write_results(
        tmp_path / "results",
        rows,
        epoch_rows(config.key, (0.5, 0.1), (0.8, 0.9)),
        rows_of_predictions,
        classes=images.classes,
    )
    pq.write_table(
        pa.Table.from_pylist(
            [*image_assignment_rows({config: dataset})], schema=schema.IMAGES_SCHEMA
        ),
        path / "images.parquet",
    )

    def shown() -> tuple[int, bool]:
        ReportCommand(folder=str(path), format=()).run()
        text = (path / "report" / "report.html").read_text()
        return text.count("<img "), "are shown as paths" in text

    assert shown() == (3, False)
    write_noise_image(tmp_path / "tiles" / images.paths[0], size=(5, 7))
    (tmp_path / "tiles" / images.paths[1]).unlink()
    assert shown() == (1, True)
