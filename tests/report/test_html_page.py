"""The page: its content, its isolation and, in Chromium, its use by pointer and keyboard."""

import base64
import dataclasses
import hashlib
import html.parser
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bioimg.config import TrialConfig
from bioimg.errors import UserError
from bioimg.report import html_page, html_sections
from bioimg.report.analysis import Analysis
from bioimg.report.report_context import ReportContext
from support import example_results
from support.html_elements import Elements

SMALL = {"weights": ("IMAGENET1K_V1", "IMAGENET1K_V2"), "freeze": ("features",)}
REPEATED = {
    "weights": ("IMAGENET1K_V1", "IMAGENET1K_V2"),
    "freeze": ("features",),
    "seed": (0, 1, 2),
}
HOSTILE = (
    "<script>pwned=1</script>",
    '"><img src=x onerror=pwned=1>',
    '=HYPERLINK("http://x","y")',
    "</script><script>pwned=1</script>",
    "long" * 200,
    "ورم ليفي",
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return example_results.read_analysis(
        example_results.write_simulated_results(tmp_path_factory.mktemp("results") / "grid")
    )


@pytest.fixture(scope="module")
def pixels(results: Analysis) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {
        name: draw.integers(0, 255, (150, 150, 3), np.uint8)
        for name in results.results.predictions["image"].unique()
    }


@pytest.fixture(scope="module")
def text(
    results: Analysis, pixels: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> str:
    return written(results, tmp_path_factory.mktemp("page"), images=pixels)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    folder = tmp_path_factory.mktemp("results") / "hostile"
    return example_results.read_analysis(
        example_results.write_simulated_results(
            folder, axes=SMALL, classes=HOSTILE, name=HOSTILE[1], image=HOSTILE[0]
        )
    )


def written(results: Analysis, folder: Path, **options: Any) -> str:
    return html_page.write_page(results, folder / "report.html", **options).read_text(
        encoding="utf-8"
    )


def plain(text: str) -> str:
    """What a reader sees, without tags."""
    body = re.sub(r"<(script|style).*?</\1>", "", text, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def rows(text: str) -> list[dict[str, str | None]]:
    return [
        attributes for attributes, _ in Elements(text).named("tr") if "data-state" in attributes
    ]


def only(results: Analysis, status: str) -> Analysis:
    trials = results.trials[results.trials["status"] == status]
    return Analysis(dataclasses.replace(results.results, trials=trials))


def test_headline_names_recipe_chosen_by_validation(text: str):
    (_, headline), *_ = Elements(text).named("h1")
    assert (
        "Best by validation: this trained model of weights IMAGENET1K_V2, trained: all layers, "
        "batch 128, with 92.7 % [79.7, 97.6] of 96 test images correct" in headline
    )
    assert "of 8 others: 0 better, 6 worse, 2 not distinguishable." in plain(text)
    assert "95 % interval 79.7 % to 97.6 %" in plain(text)


def test_leaking_split_is_warned_of_above_table(text: str):
    assert 0 < text.index("WARNING: the split ignores known groups") < text.index("<table")


def test_synthetic_images_are_named_in_headline(tmp_path: Path):
    text = written(
        example_results.read_analysis(
            example_results.write_simulated_results(
                tmp_path / "phantom", axes=SMALL, synthetic=True
            )
        ),
        tmp_path,
    )
    assert "SYNTHETIC IMAGES" in text[text.index("<h1>") : text.index("</h1>")]
    assert "SYNTHETIC IMAGES" not in text[text.index("</h1>") : text.index("<table")]


def test_running_experiment_is_called_incomplete(tmp_path: Path):
    text = written(
        example_results.read_analysis(
            example_results.write_simulated_results(
                tmp_path / "running", axes=SMALL, complete=False
            )
        ),
        tmp_path,
    )
    assert "The experiment isn't complete. Trials that have ended so far: 2." in plain(text)


def test_stopped_and_failed_rows_come_last_and_are_marked(text: str):
    assert [row["data-state"] for row in rows(text)] == [
        *["completed"] * 9,
        *["stopped", "stopped", "failed", "baseline"],
    ]
    assert [row["class"] for row in rows(text)][:3] == ["best", "tie", "tie"]
    assert all("unranked" in str(row["class"]) for row in rows(text)[9:])
    assert "stopped after 4/10 at 84.4 %, 12 : 3 images (p 0.018)" in plain(text)
    assert "2 of 12 recipes were stopped after 2–4 epochs and may be better." in plain(text)
    assert "failed: OutOfMemoryError" in plain(text)


def test_differences_are_given_in_words(results: Analysis, text: str):
    pairs = results.best_pairs
    tie = pairs[pairs["verdict"].eq("tie")].iloc[0]
    scores = f"{100 * tie['score_a']:.1f} % and {100 * tie['score_b']:.1f} %"
    assert f"{scores} of 96 images correct: not distinguishable; the" in plain(text)
    worst = pairs["difference"].min()
    assert f"this trained model is worse by {-100 * worst:.1f} points" in plain(text)


def test_every_trial_with_epochs_has_curves(results: Analysis, text: str):
    groups = [attributes for attributes, _ in Elements(text).named("g") if "data-key" in attributes]
    assert sorted(str(group["data-key"]) for group in groups) == sorted(
        [*results.trials["key"]] * 2
    )


def test_matrix_counts_every_test_image_once(results: Analysis, text: str):
    first = text[text.index("data-matrix") :]
    cells = [
        content
        for attributes, content in Elements(first[: first.index("</table>")]).named("td")
        if "cell" in str(attributes["class"])
    ]
    assert sum(int(content) for content in cells if content) == 96


def test_matrix_gives_recall_and_specificity_with_intervals(results: Analysis, text: str):
    key = results.tested_trials["key"].iloc[0]  # shown first
    first = results.class_metrics[results.class_metrics["key"].eq(key)].iloc[0]
    for name in ("recall", "specificity"):
        shares = [100 * first[part] for part in (name, f"{name}_low", f"{name}_high")]
        assert "{:.1f} % [{:.1f}, {:.1f}]".format(*shares) in plain(text)


def test_measure_without_interval_shows_one_dash(text: str):
    calibration = re.search(r"calibration error \(%\) (\S+) % (.{5})", plain(text))
    assert calibration
    assert calibration[2].startswith("– W")  # the next section: Worst mistakes


def test_missing_images_are_shown_as_paths(results: Analysis, text: str, tmp_path: Path):
    shown = Elements(text).named("img")
    assert len(shown) == 7
    assert all(
        str(attributes["src"]).startswith("data:image/png;base64,") for attributes, _ in shown
    )
    assert "are shown as paths" not in text
    without = written(results, tmp_path)
    assert Elements(without).named("img") == []
    assert "are shown as paths" in without


def test_incomparable_recipes_are_neither_tied_nor_different(
    tmp_path: Path,
):
    trials = [TrialConfig(batch_size=size) for size in (16, 32)]
    groups = ["slide-1"] * 60
    predictions = [
        row
        for trial in trials
        for row in example_results.prediction_rows(trial.key, range(9), n=60, groups=groups)
    ]
    measured = {"best_val_loss": 0.1, "test_accuracy": 0.85, "train_seconds": 9.0}
    rows = [example_results.trial_row(trial, **measured) for trial in trials]
    curves = [
        row
        for trial in trials
        for row in example_results.epoch_rows(trial.key, (0.5, 0.1), (0.8, 0.9))
    ]
    text = written(
        example_results.read_analysis(
            example_results.write_results(tmp_path / "results", rows, curves, predictions)
        ),
        tmp_path,
    )
    assert text.count("<bdi>not compared</bdi>") == 2  # in the comparison and among the differences
    assert "<dt>not distinguishable from it</dt>" not in text
    assert "over all comparisons (0)" in text
    assert "“tie”" not in text


def test_repeats_are_one_row_with_spread(tmp_path: Path):
    text = written(
        example_results.read_analysis(
            example_results.write_simulated_results(tmp_path / "seeds", axes=REPEATED)
        ),
        tmp_path,
    )
    assert len(rows(text)) == 3
    assert "±" in plain(text)
    assert "The number is the mean of 3 runs. Recipes completed in fewer folds" in plain(text)


def test_folds_are_pooled_over_all_images(tmp_path: Path):
    trials = [
        TrialConfig(batch_size=size, folds=3, fold=fold) for size in (16, 32) for fold in (0, 1, 2)
    ]
    predictions, measured = [], {"best_val_loss": 0.1, "test_accuracy": 0.85, "train_seconds": 9.0}
    for trial in trials:
        wrong = [0, 1, 2] if trial.batch_size == 16 else [0]
        rows = example_results.prediction_rows(trial.key, wrong, n=20 + trial.fold)
        predictions += [row | {"image": f"{trial.fold}/{row['image']}"} for row in rows]
    rows = [
        example_results.trial_row(trial, test_images=20 + trial.fold, **measured)
        for trial in trials
    ]
    curves = [
        row
        for trial in trials
        for row in example_results.epoch_rows(trial.key, (0.5, 0.1), (0.8, 0.9))
    ]
    text = plain(
        written(
            example_results.read_analysis(
                example_results.write_results(tmp_path / "results", rows, curves, predictions)
            ),
            tmp_path,
        )
    )
    assert "with 85.7 % [" in text
    assert "of 63 test images correct" in text
    assert "must not be compared" not in text
    assert "other trials that got it wrong: 1 of 1" in text
    assert "other trials that got it wrong: 0 of 1" in text


def test_copies_across_subsets_are_warned_of_everywhere(tmp_path: Path):
    rows = [
        example_results.trial_row(
            TrialConfig(), best_val_loss=0.1, test_accuracy=0.85, duplicate_images_across_splits=4
        )
    ]
    results = example_results.read_analysis(
        example_results.write_results(tmp_path / "results", rows)
    )
    warning_text = "validation and test images have an exact copy in another subset (4)"
    assert warning_text in plain(written(results, tmp_path)).split("Comparison")[0]
    assert any(warning_text in warning for warning in ReportContext(results).warnings)


def test_trial_failed_before_images_spoils_no_comparison(tmp_path: Path):
    rows = [
        example_results.trial_row(TrialConfig(), best_val_loss=0.1, test_accuracy=0.85),
        example_results.trial_row(
            TrialConfig(batch_size=16),
            status="failed",
            error="x",
            test_images=None,
            epochs_run=None,
        ),
    ]
    assert "must not be compared" not in written(
        example_results.read_analysis(example_results.write_results(tmp_path / "results", rows)),
        tmp_path,
    )


def test_page_of_12_trials_with_images_stays_small(text: str):
    assert len(text.encode()) < 2_000_000


def test_page_fetches_nothing(text: str):
    for tag, attributes, _ in Elements(text).found:
        for name in ("src", "href", "action", "data", "srcset", "poster"):
            assert str(attributes.get(name, "#")).startswith(("#", "data:")), (tag, attributes)
    assert not re.search(r"https?://|@import|url\(", text)


def test_policy_allows_only_own_script_and_style(text: str):
    elements = Elements(text)
    policy = next(
        str(attributes["content"])
        for attributes, _ in elements.named("meta")
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    for kind, tag in (("style-src", "style"), ("script-src", "script")):
        content = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert content
        digest = base64.b64encode(hashlib.sha256(content[1].encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy
    assert not [
        attributes
        for _, attributes, _ in elements.found
        if "style" in attributes or any(name.startswith("on") for name in attributes)
    ]


def test_hostile_names_stay_text(hostile: Analysis, tmp_path: Path):
    text = written(hostile, tmp_path)
    elements = Elements(text)
    assert len(elements.named("script")) == 2
    assert elements.named("img") == []
    assert json.loads(elements.named("script")[0][1])["panels"]
    assert "<script>pwned=1</script>" in plain(text)


def test_results_without_completed_trials_give_a_page(results: Analysis, tmp_path: Path):
    text = plain(written(only(results, "failed"), tmp_path))
    assert "No trial was completed, so there is nothing to compare yet" in text
    assert "failed: OutOfMemoryError" in text
    assert "No trial was completed" in plain(written(only(results, "nothing"), tmp_path))


def test_page_says_where_weights_came_from_and_under_which_licence(
    results: Analysis, tmp_path: Path
):
    trials = results.results.trials.copy()
    is_first = trials["weights"].eq("IMAGENET1K_V1")
    trials.loc[is_first, "weights_source"] = "hub:owner/name@c0ffee"
    trials.loc[is_first, "weights_licence"] = "cc-by-nc-nd-4.0"
    text = plain(written(Analysis(dataclasses.replace(results.results, trials=trials)), tmp_path))
    sources = "resnext50_32x4d IMAGENET1K_V1 (hub:owner/name@c0ffee, cc-by-nc-nd-4.0)"
    assert f"{sources}; resnext50_32x4d IMAGENET1K_V2" in text


def test_missing_provenance_is_a_dash(results: Analysis, tmp_path: Path):
    experiment = {
        **results.manifest,
        "commit": None,
        "finished": None,
        "hardware": {"cpus": 2, "gpus": []},
    }
    experiment["data"] = {
        name: value
        for name, value in experiment["data"].items()
        if name not in ("groups", "image_size")
    }
    text = plain(
        written(Analysis(dataclasses.replace(results.results, manifest=experiment)), tmp_path)
    )
    assert "600 images in 6 classes, known groups: –, used at 150 × 150 px" in text
    assert "commit –" in text
    assert "group pattern –; model resnext50_32x4d" in text
    assert "seed 0; workers 1" in text
    assert "2026-03-02 09:14:07 → –" in text
    assert "cpus 2; gpus –" in text


def test_results_without_curves_or_predictions_give_a_page(tmp_path: Path):
    results = example_results.read_analysis(example_results.write_report_2023(tmp_path / "2023"))
    text = written(results, tmp_path)
    assert len(rows(text)) == len(results.trials) == 9
    assert "for different numbers of epochs" in plain(text)
    assert Elements(text).named("option") != []


def test_rows_beyond_the_limit_are_counted(
    results: Analysis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(html_sections, "MAX_ROWS", 5)
    text = written(results, tmp_path)
    assert len(rows(text)) == 5
    assert "The best 5 of 12 rows" in plain(text)


def test_page_is_translated_to_traditional_chinese(results: Analysis, tmp_path: Path):
    text = written(results, tmp_path, lang="zh-TW")
    assert '<html lang="zh-TW">' in text
    assert "哪些差異成立？" in text
    assert not re.search(r"\b(of|the|images)\b", plain(text).replace("CUDA out of memory", ""))
    with pytest.raises(UserError, match=r"`lang` is 'fr', but must be one of: en, zh-TW"):
        written(results, tmp_path, lang="fr")


# In the browser


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip(
        "selenium.webdriver", reason="selenium isn't installed: pip install -e .[dev]"
    )
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip(
            "chromium and chromedriver are missing (Debian: apt install chromium chromium-driver)"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    quiet = ("quic", "gpu", "background-networking", "component-update", "sync")
    for flag in ("headless", "no-sandbox", "no-first-run", *(f"disable-{name}" for name in quiet)):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(
        options=options, service=webdriver.ChromeService(shutil.which("chromedriver"))
    )
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium: Any, text: str, tmp_path: Path) -> Iterator[Any]:
    """The page, opened at desktop width; afterwards nothing may have been complained about."""
    (tmp_path / "report.html").write_text(text, encoding="utf-8")
    opened(chromium, tmp_path / "report.html")
    yield chromium
    assert chromium.get_log("browser") == []


def opened(chromium: Any, file: Path, width: int = 1280) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    chromium.get(file.as_uri())


def press(browser: Any, selector: str, *keys: str) -> None:
    """Focus an element as the tab key would, and press keys."""
    element = browser.find_element("css selector", selector)
    browser.execute_script("arguments[0].focus()", element)
    browser.switch_to.active_element.send_keys(*keys)


def column(browser: Any, header: str) -> list[str]:
    """The visible cells of a column of the comparison table."""
    return browser.execute_script(
        """const buttons = [...document.querySelectorAll("#comparison th button")];
        const index = buttons.map(button => button.textContent).indexOf(arguments[0]);
        const rows = [...document.querySelectorAll("#comparison tbody tr")];
        return rows.filter(row => row.offsetParent)
          .map(row => row.querySelectorAll("td[data-sort]")[index].textContent);""",
        header,
    )


def states(browser: Any) -> list[str]:
    return browser.execute_script(
        "return [...document.querySelectorAll('#comparison tbody tr')]"
        ".map(row => row.dataset.state)"
    )


def curves(browser: Any) -> int:
    return browser.execute_script(
        "return [...document.querySelectorAll('.line')]"
        ".filter(line => getComputedStyle(line).display != 'none').length"
    )


def header_button(browser: Any, name: str) -> Any:
    return next(
        b
        for b in browser.find_elements("css selector", "#comparison th button")
        if b.text.startswith(name)
    )


@pytest.mark.nightly
def test_second_click_on_header_reverses_order(browser: Any):
    button = header_button(browser, "train acc. (%)")
    button.click()
    upwards = [float(cell) for cell in column(browser, "train acc. (%)")[:9]]
    assert upwards == sorted(upwards)
    assert button.find_element("xpath", "..").get_attribute("aria-sort") == "ascending"
    button.click()
    assert [float(cell) for cell in column(browser, "train acc. (%)")[:9]] == sorted(
        upwards, reverse=True
    )
    assert states(browser) == ["completed"] * 9 + ["stopped"] * 2 + ["failed", "baseline"]


@pytest.mark.nightly
def test_numbers_sort_as_numbers_by_keyboard(browser: Any):
    browser.execute_script("arguments[0].focus()", header_button(browser, "batch"))
    browser.switch_to.active_element.send_keys("\n")
    assert [int(cell) for cell in column(browser, "batch")[:9]] == [32] * 3 + [64] * 3 + [128] * 3


@pytest.mark.nightly
def test_search_and_choices_filter_and_count_rows(browser: Any):
    press(browser, "#search", "v2 head only")
    assert column(browser, "trained") == ["head only"] * 3
    assert browser.find_element("id", "count").text == "3 of 13 rows"
    press(browser, "#comparison select[data-column='2']", "64")
    assert column(browser, "batch") == ["64"]
    press(browser, "#search", "zzz")
    assert browser.find_element("id", "count").text == "0 of 13 rows"


@pytest.mark.nightly
def test_curves_are_hidden_by_value_and_by_trial(browser: Any):
    all_of_them = curves(browser)
    press(browser, ".chip[data-field=freeze][data-value=features]", " ")
    assert curves(browser) == all_of_them - 12
    browser.find_element("css selector", ".chip[data-field=freeze][data-value=features]").click()
    assert curves(browser) == all_of_them
    press(browser, ".trials summary", "\n")
    press(browser, "[data-trial]", " ")
    assert curves(browser) == all_of_them - 2
    press(browser, "#show-all", "\n")
    assert curves(browser) == all_of_them


@pytest.mark.nightly
def test_training_curves_are_shown_on_demand(browser: Any):
    visible = (
        "return [...document.querySelectorAll('.training')]"
        ".filter(line => getComputedStyle(line).display != 'none').length"
    )
    assert browser.execute_script(visible) == 0
    press(browser, "#training", " ")
    assert browser.execute_script(visible) == 24


@pytest.mark.nightly
def test_pointer_reads_a_value(browser: Any):
    actions = __import__("selenium.webdriver", fromlist=["ActionChains"]).ActionChains(browser)
    actions.move_to_element(browser.find_element("css selector", ".chart .line circle")).perform()
    readout = browser.find_element("css selector", ".readout").text
    assert re.fullmatch(
        r"weights \S+, trained: all layers, batch \d+ · epoch \d+: \d\.\d{3}", readout
    )


@pytest.mark.nightly
def test_arrow_keys_read_values(results: Analysis, browser: Any):
    right, down = "\ue014", "\ue015"
    press(browser, ".chart", right, right, right)
    losses = results.results.epochs.merge(
        results.trials[["key", "weights", "batch_size", "freeze"]], on="key"
    )
    readout = browser.find_element("css selector", ".readout")
    best = losses.query(
        "weights == 'IMAGENET1K_V2' and batch_size == 128 and freeze == 'none' and epoch == 3"
    )["val_loss"].iloc[0]
    assert (
        readout.text
        == f"weights IMAGENET1K_V2, trained: all layers, batch 128 · epoch 3: {best:.3f}"
    )
    press(browser, ".chart", down)
    assert "batch 64 · epoch 3" in readout.text
    press(browser, ".chart", "\ue00c")
    assert readout.text == ""


@pytest.mark.nightly
def test_chosen_matrix_replaces_the_shown_one(results: Analysis, browser: Any):
    shown = (
        "return [...document.querySelectorAll('[data-matrix]')]"
        ".filter(figure => figure.offsetParent).map(figure => figure.dataset.matrix)"
    )
    (first,) = browser.execute_script(shown)
    press(browser, "#matrix", "\ue015")
    (second,) = browser.execute_script(shown)
    assert first != second


@pytest.mark.nightly
@pytest.mark.parametrize("width", [1280, 390, 320])
def test_page_never_scrolls_sideways(
    chromium: Any, hostile: Analysis, text: str, tmp_path: Path, width: int
):
    (tmp_path / "grid.html").write_text(text, encoding="utf-8")
    for file in (tmp_path / "grid.html", html_page.write_page(hostile, tmp_path / "hostile.html")):
        opened(chromium, file, width)
        assert chromium.execute_script("return document.documentElement.scrollWidth") <= width


@pytest.mark.nightly
def test_hostile_names_execute_nothing(chromium: Any, hostile: Analysis, tmp_path: Path):
    opened(chromium, html_page.write_page(hostile, tmp_path / "hostile.html"))
    assert chromium.execute_script("return typeof pwned") == "undefined"
    assert chromium.get_log("browser") == []


@pytest.mark.nightly
def test_dark_mode_is_dark_and_print_is_light(browser: Any):
    ground = "return getComputedStyle(document.body).backgroundColor"
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": dark})
    assert max(int(part) for part in re.findall(r"\d+", browser.execute_script(ground))) < 64
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": dark})
    assert browser.execute_script(ground) == "rgb(255, 255, 255)"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    assert base64.b64decode(printed["data"]).startswith(b"%PDF")
