"""Draw where a model finds what raises the score of a class."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from bioimg.errors import UserError
from bioimg.prediction.kept_trial import KeptTrial

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from bioimg.data.image_set import ImageSet, PixelsByPath
    from bioimg.training.class_maps import ClassMapper

MAX_EXPLAINED_IMAGES = 500
EXPLANATION = """\
Each picture shows an image as the model sees it and, beside it, where the last layer with maps
finds what raises the score of the predicted class: the brighter, the more (Grad-CAM, Selvaraju et
al. 2017).

What these pictures are not: evidence that the model looks at the right tissue, or the reason for a
prediction. They are coarse, each is scaled by its own highest value, and models without any
training can give pictures that look as convincing (Adebayo et al. 2018, Sanity checks for saliency
maps).
"""


def prepare_overlay_folder(explain: Path, images: Path, count: int) -> None:
    """Make the folder of pictures after checking it and their number; write down what they aren't.

    Raises:
        UserError: there are too many, or the folder lies among the images.
    """
    if count > MAX_EXPLAINED_IMAGES:
        raise UserError(
            f"the value of `explain` is {str(explain)!r}, which takes a picture of each image, but "
            f"{str(images)!r} holds {count}, and at most {MAX_EXPLAINED_IMAGES} are explained. Put "
            "those of interest into a folder of their own."
        )
    if explain.resolve().is_relative_to(images.resolve()):
        raise UserError(
            f"the value of `explain` is {str(explain)!r}, but must not lie in the folder of the "
            "images, where the pictures would be taken for images. Name another folder."
        )
    with _report_write_errors(explain):
        explain.mkdir(parents=True, exist_ok=True)
        (explain / "README.txt").write_text(EXPLANATION)


def write_overlays(
    mapper: "ClassMapper", images: "ImageSet", labels: "np.ndarray", folder: Path
) -> None:
    """Write a picture of each image beside itself with the map of its label.

    Raises:
        UserError: the folder can't be written.
    """
    import numpy as np
    from PIL import Image

    from bioimg.training.class_maps import draw_overlay

    maps = mapper.iter_maps(images, labels)
    for row, (path, class_map) in enumerate(zip(images.paths, maps, strict=True)):
        pixels = images.pixels[np.array([row])][0]
        pair = np.concatenate([pixels, draw_overlay(pixels, class_map)], axis=1)
        file = folder / f"{path}.png"
        with _report_write_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pair).save(file)


def explain_mistakes(folder: str) -> "tuple[PixelsByPath | None, dict[str, np.ndarray]]":
    """Return an experiment's images, and some of them with a map in colour, by their paths.

    These are the worst mistakes on test images, as on the report's page, with where the trial that
    made them finds what raises the score of its wrong answer. None and {} if there are none.

    Raises:
        UserError: the weights weren't kept, the model has no maps, or an image isn't where it was.
    """
    import numpy as np

    from bioimg.data.external_images import select_images
    from bioimg.data.image_set import PixelsByPath
    from bioimg.data.inference_images import load_experiment_images
    from bioimg.report.analysis import Analysis
    from bioimg.report.open_results import open_results
    from bioimg.results.result_store import ResultStore
    from bioimg.training.class_maps import draw_overlay

    mistakes = Analysis(open_results(folder)).worst_mistakes
    if mistakes.empty:
        return None, {}
    store = ResultStore(folder)
    best = KeptTrial.load(store, mistakes["key"].iloc[0])
    known, _ = load_experiment_images(best.trial.dataset_config, best.scaling_limits)
    digests = store.image_digests()
    row_by_digest = {digest: row for row, digest in enumerate(known.digests)}
    for path in mistakes["image"]:
        if digests[path] not in row_by_digest:
            raise UserError(
                f"the value of `explain` is True, but {path} isn't where it was, or has changed. "
                "Put it back, or leave out --explain."
            )
    rows = np.array([row_by_digest[digests[path]] for path in mistakes["image"]], np.int64)
    images = select_images(known, rows)
    maps = best.make_mapper().iter_maps(images, mistakes["prediction"].to_numpy())
    overlays = {}
    for row, (path, class_map) in enumerate(zip(mistakes["image"], maps, strict=True)):
        overlays[path] = draw_overlay(images.pixels[np.array([row])][0], class_map)
    return PixelsByPath(known), overlays


@contextlib.contextmanager
def _report_write_errors(path: Path) -> "Iterator[None]":
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the value of `explain` is {str(path)!r}, which can't be written: {error}."
        ) from error
