"""The words of figures and page, in English and Traditional Chinese. Values from the data are never translated."""

from collections.abc import Mapping

from bioimg.report.captions import language_index

DISPLAY_WORDS = {
    # figures
    "epoch": ("epoch", "訓練週期"),
    "loss": ("loss", "損失"),
    "accuracy": ("accuracy", "準確率"),
    "train": ("training", "訓練"),
    "val": ("validation", "驗證"),
    "selected": ("selected: lowest validation loss", "選用：驗證損失最低"),
    "selected_epoch": ("selected: epoch {epoch} of {epochs}", "選用：第 {epoch}／{epochs} 週期"),
    "val_loss": ("validation loss", "驗證損失"),
    "val_accuracy": ("validation accuracy", "驗證準確率"),
    "ended": ("stopped early", "提前停止"),
    "failed_at": ("failed", "失敗"),
    "status_stopped": (
        "stopped early after {run} of {epochs} epochs",
        "於第 {run}／{epochs} 週期提前停止",
    ),
    "status_failed": ("failed in epoch {run} of {epochs}", "於第 {run}／{epochs} 週期失敗"),
    "status_completed": ("{epochs} epochs", "{epochs} 週期"),
    "test_accuracy": ("test accuracy", "測試準確率"),
    "train_seconds": ("training time, s", "訓練時間（秒）"),
    "interval": (
        "bars: 95 % Wilson interval of {n} test images",
        "誤差線：{n} 張測試影像的 95 % Wilson 信賴區間",
    ),
    "not_shown": (
        "not shown: {stopped} stopped and {failed} failed trials, which have no test accuracy",
        "未顯示：提前停止 {stopped} 個、失敗 {failed} 個，皆無測試準確率",
    ),
    "effect": ("change in test accuracy, percentage points", "測試準確率的變化（百分點）"),
    "effects": (
        "Mean effect of one level instead of another, with the other axes held fixed, and (diamonds) what two levels "
        "together add to the sum of their effects; 95 % intervals; completed trials only",
        "其他條件相同時以一個值取代另一個值的平均效果；菱形為兩個值一起時超出兩者效果之和的部分；95 % 信賴區間；只計完成的試驗",
    ),
    "instead": ("{axis}: {level} instead of {reference}", "{axis}：{level} 取代 {reference}"),
    "together": ("{} with {}", "{} 與 {}"),
    "label": ("label", "真實類別"),
    "prediction": ("prediction", "預測類別"),
    "share": ("share of the label's images", "佔該類別影像的比例"),
    "confidence": ("confidence of the prediction", "預測的信心"),
    "ece": ("expected calibration error {ece:.3f}", "期望校準誤差 {ece:.3f}"),
    "right": ("share correct", "預測正確的比例"),
    "mistake": (
        "{label}\ncalled {prediction} ({probability:.0f} %)",
        "{label}\n誤判為 {prediction}（{probability:.0f} %）",
    ),
    "no_images": ("image not\nfound", "找不到影像"),
    "mistakes": (
        "Worst {n} of {wrong} mistakes among {images} test images",
        "{images} 張測試影像中 {wrong} 個錯誤裡最嚴重的 {n} 個",
    ),
    # the page
    "page_title": (
        "{experiment}: which recipe works best on {data}?",
        "{experiment}：哪一種設定在 {data} 上最好？",
    ),
    "synthetic_flag": (
        "SYNTHETIC IMAGES: these numbers say nothing about real ones",
        "合成影像：這些數字不能代表真實影像",
    ),
    "headline": (
        "Best by validation: {recipe}, with {accuracy} of {n} test images correct",
        "驗證結果最佳：{recipe}，{n} 張測試影像中 {accuracy} 正確",
    ),
    "headline_none": (
        "No trial was completed, so there is nothing to compare yet",
        "沒有完成的試驗，尚無可比較的結果",
    ),
    "chosen": (
        "It was chosen by validation loss among the completed trials ({completed}); test images had no part in the choice.",
        "依驗證損失自 {completed} 個完成的試驗中選出；測試影像未參與選擇。",
    ),
    "chosen_folds": (
        "It was chosen by validation loss among the completed trials ({completed}). The validation images of one fold are test "
        "images of another, so it looks somewhat better than it is: confirm it on other images.",
        "依驗證損失自 {completed} 個完成的試驗中選出。每一折的驗證影像是另一折的測試影像，因此準確率略顯偏高，"
        "宜以其他影像確認。",
    ),
    "runs_told": (
        "Its accuracy is the mean of {runs} runs; recipes completed in fewer folds or with a smaller share of their seeds were "
        "not eligible.",
        "準確率為 {runs} 次訓練的平均；完成折數較少或種子比例較低的設定不列入選擇。",
    ),
    "tie_none": (
        "The test images distinguish it from every other recipe that can be compared with it.",
        "測試影像能將它與其他所有可比較的設定區別開來。",
    ),
    "tie_some": (
        "On these test images {ties} other recipes are not distinguishable from it.",
        "以這些測試影像，另有 {ties} 種設定與它無法區別。",
    ),
    "tie_one": (
        "On these test images 1 other recipe is not distinguishable from it.",
        "以這些測試影像，另有 1 種設定與它無法區別。",
    ),
    "faster": (
        "Of those that were no less accurate on the test images, {recipe} was the fastest: {accuracy} after {seconds} "
        "instead of {best}.",
        "其中測試準確率不較低者以 {recipe} 最快：{accuracy}，訓練 {seconds}，而非 {best}。",
    ),
    "fact_accuracy": ("test accuracy of the best", "最佳設定的測試準確率"),
    "fact_interval": ("95 % interval {low} to {high}", "95 % 信賴區間 {low} 至 {high}"),
    "fact_ties": ("tied with it", "種設定與它無法區別"),
    "fact_differ": ("different from it: {differ}", "{differ} 種與它有差異"),
    "fact_trials": ("trials completed", "完成的試驗"),
    "fact_ended": ("{stopped} stopped, {failed} failed", "提前停止 {stopped} 個，失敗 {failed} 個"),
    "fact_time": ("training time of all trials", "所有試驗的訓練時間"),
    "fact_best_time": ("{best} for the best", "最佳設定 {best}"),
    "skip": ("On this page", "本頁內容"),
    "comparison": ("Comparison", "比較"),
    "comparison_note": (
        "Completed trials, ordered by validation loss. Stopped and failed ones stay below them however the table is "
        "sorted, since they were not tested.",
        "完成的試驗依驗證損失排序。提前停止與失敗者未經測試，無論如何排序都列在其後。",
    ),
    "search": ("search", "搜尋"),
    "all": ("all", "全部"),
    "shown": ("{shown} of {rows} rows", "{rows} 列中的 {shown} 列"),
    "cut": (
        "The best {shown} of {rows} rows; all are in trials.parquet and in the other tables.",
        "{rows} 列中最好的 {shown} 列；全部資料見 trials.parquet 與其他表格。",
    ),
    "standing": ("standing", "比較結果"),
    "interval_bar": ("95 % interval", "95 % 信賴區間"),
    "differences": ("Which differences hold?", "哪些差異成立？"),
    "differences_note": (
        "Each completed recipe against the best one, {recipe}, on the same test images; p-values are Holm-corrected "
        "over all comparisons ({count}); intervals are uncorrected.",
        "每種完成的設定與最佳設定 {recipe} 在相同測試影像上比較；p 值已對這 {count} 次比較做 Holm 校正，"
        "信賴區間則為各自單獨計算。",
    ),
    "recipe": ("recipe", "設定"),
    "difference": ("difference (points) and 95 % interval", "差異（百分點）與 95 % 信賴區間"),
    "claim": ("what can be said", "可得的結論"),
    "claim_told": (
        "{a} and {b} of {n} images: {verdict}, p (Holm) {p}",
        "{n} 張影像中 {a} 與 {b} 正確：{verdict}，p（Holm）{p}",
    ),
    "curves": ("Validation curves", "驗證曲線"),
    "curves_note": (
        "A dot marks the selected epoch (lowest validation loss), a bar the end of a trial that did not complete. "
        "Point at a curve to read its values, or focus a chart and use the arrow keys: left and right change the epoch, up and "
        "down the curve.",
        "圓點為選用的週期（驗證損失最低），直線為未完成試驗的終點。指向曲線可讀數值；或以鍵盤選取圖表：左右鍵換週期，"
        "上下鍵換曲線。",
    ),
    "show_training": ("training curves too (thin)", "同時顯示訓練曲線（細線）"),
    "single_trials": ("individual trials", "個別試驗"),
    "show_all": ("show all", "全部顯示"),
    "left_out": (
        "{left_out} more trials with a higher validation loss are not drawn.",
        "另有 {left_out} 個驗證損失較高的試驗未繪出。",
    ),
    "chart_label": (
        "{metric} over epochs. Use the arrow keys to read values.",
        "{metric}隨週期的變化。方向鍵可讀數值。",
    ),
    "effects_title": ("What each axis does", "各變因的影響"),
    "effects_note": (
        "Mean change in test accuracy (points, 95 % interval) when one level replaces another, with the other axes held fixed; "
        "completed trials only, not corrected for the number of rows.",
        "其他條件相同時，以一個值取代另一個值時測試準確率的平均變化（百分點，95 % 信賴區間）；只計完成的試驗，"
        "未做多重比較校正。",
    ),
    "interactions": (
        "interactions: what two levels together add to the sum of their effects",
        "交互作用：兩個值一起時超出兩者效果之和的部分",
    ),
    "verdict_worse": ("worse", "較差"),
    "verdict_better": ("better", "較佳"),
    "verdict_tie": ("not distinguishable", "無法區別"),
    "verdict_unknown": ("not compared", "不可比較"),
    "data_told": (
        "{name}: {images} images in {classes} classes, known groups: {groups}, used at {image_size} × {image_size} px",
        "{name}：{images} 張影像，{classes} 類，已知 {groups} 組，以 {image_size} × {image_size} px 訓練",
    ),
    "scores": ("The best recipe by other measures", "最佳設定的其他評分"),
    "scores_runs": ("means of {runs} runs", "{runs} 次訓練的平均"),
    "measure": ("measure", "指標"),
    "value": ("value", "數值"),
    "matrices": ("Confusion matrices", "混淆矩陣"),
    "matrices_note": (
        "Test images by label (rows) and prediction (columns); shading shows the share of the label's images.",
        "測試影像依真實類別（列）與預測類別（行）計數；深淺為佔該類別影像的比例。",
    ),
    "trial": ("trial", "試驗"),
    "recall": ("recall", "召回率"),
    "precision_score": ("precision", "精確率"),
    "worst": ("Worst mistakes", "最嚴重的錯誤"),
    "worst_note": (
        "The most confident wrong predictions of {recipe} on test images. If most trials get an image wrong, check its label.",
        "{recipe} 在測試影像上最有把握的錯誤預測。多數試驗都判錯的影像，值得再檢查其標記。",
    ),
    "no_mistakes": ("It made no mistakes.", "沒有錯誤。"),
    "called": ("called", "誤判為"),
    "also": (
        "other trials that got it wrong: {others} of {trials}",
        "其他 {trials} 個試驗中有 {others} 個也判錯",
    ),
    "not_given": (
        "Images that have moved or changed are shown as paths. Run the experiment again to show them; nothing is retrained.",
        "已移動或變更的影像僅顯示路徑；再次執行實驗即可顯示影像，不會重新訓練。",
    ),
    "provenance": ("Provenance", "來源"),
    "experiment": ("experiment", "實驗"),
    "axes": ("varied", "變因"),
    "fixed": ("held fixed", "固定設定"),
    "images": ("images", "影像"),
    "fingerprint": ("data fingerprint", "資料指紋"),
    "versions": ("versions", "版本"),
    "commit": ("commit", "版本提交"),
    "hardware": ("hardware", "硬體"),
    "created": ("ran", "執行時間"),
    "notes": ("How to read the numbers", "如何閱讀這些數字"),
}


def display_words(lang: str) -> Mapping[str, str]:
    """The words of a language.

    Raises:
        UserError: there is no such language.
    """
    place = language_index(lang)
    return {name: texts[place] for name, texts in DISPLAY_WORDS.items()}
