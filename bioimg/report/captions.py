"""Headers, captions and notes of tables, in English and Traditional Chinese. Values from the data are never translated."""

from bioimg.errors import unknown_value_error

LANGUAGES = ("en", "zh-TW")
"""In the order of each pair of texts."""

COLUMN_HEADERS = {
    "weights": ("weights", "預訓練權重"),
    "batch_size": ("batch", "批次大小"),
    "freeze": ("frozen", "凍結"),
    "epochs": ("epochs", "訓練週期數"),
    "model": ("model", "模型"),
    "data": ("data", "資料"),
    "image_size": ("image size", "影像大小"),
    "split": ("split", "資料切分"),
    "group_pattern": ("group pattern", "分組規則"),
    "learning_rate": ("learning rate", "學習率"),
    "schedule": ("schedule", "學習率排程"),
    "optimizer": ("optimizer", "最佳化器"),
    "weight_decay": ("weight decay", "權重衰減"),
    "augmentation": ("augmentation", "資料增強"),
    "columns": ("table columns", "表格欄位"),
    "resize": ("resizing", "縮放方式"),
    "channels": ("channels", "影像通道"),
    "scaling": ("scaling", "灰階範圍"),
    "skip_unreadable": ("unreadable skipped", "略過無法讀取者"),
    "folds": ("folds", "交叉驗證折數"),
    "fold": ("fold", "第幾折"),
    "sampling": ("sampling", "取樣方式"),
    "class_weights": ("class weights", "類別權重"),
    "patience": ("patience (epochs)", "容忍週期數"),
    "seed": ("seed", "隨機種子"),
    "workers": ("workers", "行程數"),
    "precision": ("precision", "精度"),
    "tf32": ("TF32", "TF32"),
    "compile": ("compiled", "編譯"),
    "final_train_loss": ("final train loss", "最終訓練損失"),
    "best_train_accuracy": ("best train acc. (%)", "最佳訓練準確率 (%)"),
    "best_val_loss": ("best val loss (epoch)", "最佳驗證損失 (週期)"),
    "best_val_loss_epoch": ("best epoch", "最佳週期"),
    "final_val_accuracy": ("final val acc. (%)", "最終驗證準確率 (%)"),
    "best_val_accuracy": ("best val acc. (%)", "最佳驗證準確率 (%)"),
    "val_accuracy": ("val acc. (%)", "驗證準確率 (%)"),
    "val_loss": ("val loss", "驗證損失"),
    "test_accuracy": ("test acc. (%)", "測試準確率 (%)"),
    "final_test_accuracy": ("test acc. of last epoch (%)", "最終週期測試準確率 (%)"),
    "train_seconds": ("time (min:s)", "訓練時間 (分:秒)"),
    "wait_seconds": ("waiting (min:s)", "等待時間 (分:秒)"),
    "device_seconds": ("device time (min:s)", "裝置時間 (分:秒)"),
    "status": ("status", "狀態"),
    "standing": ("standing", "比較結果"),
    "runs": ("runs", "次數"),
    "epochs_run": ("epochs run", "已訓練週期數"),
    "epochs_stopped": ("epochs saved by stopping", "提前停止省下的週期數"),
    "seconds_stopped": (
        "time saved by stopping, estimated (min:s)",
        "提前停止省下的時間，估計 (分:秒)",
    ),
    "features_seconds": ("computing features (min:s)", "計算特徵 (分:秒)"),
    "epochs_cached": ("epochs on cached features", "使用快取特徵的週期數"),
    "price": ("price", "費用"),
    "balanced_accuracy": ("balanced acc. (%)", "平衡準確率 (%)"),
    "macro_f1": ("macro F1 (%)", "巨觀 F1 (%)"),
    "auroc": ("AUROC (%)", "AUROC (%)"),
    "ece": ("calibration error (%)", "校準誤差 (%)"),
    "class": ("class", "類別"),
    "recall": ("recall (%)", "召回率 (%)"),
    "precision_score": ("precision (%)", "精確率 (%)"),
    "f1": ("F1 (%)", "F1 (%)"),
    "support": ("images", "影像數"),
    "label": ("label", "真實類別"),
    "axis": ("axis", "變因"),
    "level": ("level", "水準"),
    "reference": ("against", "對照"),
    "n": ("n", "n"),
    "effect": ("effect on test acc. (points)", "對測試準確率的影響 (百分點)"),
    "a": ("A", "A"),
    "b": ("B", "B"),
    "accuracy_a": ("acc. of A (%)", "A 準確率 (%)"),
    "accuracy_b": ("acc. of B (%)", "B 準確率 (%)"),
    "difference": ("A − B (points)", "A − B (百分點)"),
    "p": ("p", "p"),
    "p_holm": ("p, Holm", "Holm 校正 p"),
    "test": ("test", "檢定"),
    "claim": ("what can be said", "可得的結論"),
    "gap": ("train − val acc. (points)", "訓練 − 驗證準確率 (百分點)"),
    "last_fall": ("val loss fell until epoch", "驗證損失下降至第幾週期"),
    "rise": ("rise of val loss (%)", "驗證損失回升 (%)"),
    "oscillation": ("oscillation of val acc. (points)", "驗證準確率震盪 (百分點)"),
    "reading": ("reading", "判讀"),
    "stage": ("stage", "階段"),
    "output": ("output", "輸出"),
    "layers": ("layers", "層"),
    "blocks": ("blocks", "區塊數"),
    "parameters": ("parameters", "參數量"),
}

TABLE_TEXTS = {
    "comparison": (
        "Recipes compared on {data} (trials: {trials} of {all})",
        "{data} 上各種設定的比較：{all} 次訓練中的 {trials} 次",
    ),
    "per-class": (
        "Recall, precision and F1 of each class, on test images of {data}",
        "{data} 測試影像各類別的召回率、精確率與 F1",
    ),
    "confusion": ("Test images of {data} by label and prediction", "{data} 測試影像的混淆矩陣"),
    "scores": ("Scores on test images of {data}", "{data} 測試影像的評分"),
    "effects": (
        "What each axis does to the test accuracy on {data}",
        "各變因對 {data} 測試準確率的影響",
    ),
    "differences": (
        "Which differences hold on test images of {data}",
        "{data} 測試影像上成立的差異",
    ),
    "differences-best": (
        "Which configurations differ from the best one on test images of {data}",
        "{data} 測試影像上與最佳設定的差異",
    ),
    "cost": ("What the trials on {data} cost", "{data} 各次訓練的成本"),
    "at-epoch": (
        "Trials on {data} at the same epoch: validation images, not final results",
        "{data} 各次訓練於相同週期的驗證結果（非最終結果）",
    ),
    "curves": ("What the curves on {data} show", "{data} 訓練曲線的判讀"),
    "architecture": (
        "Architecture of {model} with {classes} classes",
        "{model} 的架構（{classes} 類）",
    ),
    "images": (
        "n: {train} training, {val} validation and {test} test images of {data} (fingerprint {fingerprint}).",
        "n：{data} 的訓練影像 {train} 張、驗證 {val} 張、測試 {test} 張（指紋 {fingerprint}）。",
    ),
    "recall_note": (
        "Recall: share of a class's images that are found, with its Wilson interval. Precision: share of the images predicted "
        "as a class that belong to it.",
        "召回率：該標記影像被找出的比例（Wilson 區間）。精確率：被判為該類的影像中正確的比例。",
    ),
    "scores_note": (
        "AUROC: one class against the rest, averaged. Calibration error: mean gap between confidence and accuracy over 10 "
        "bins; chance alone makes it exceed 0, more so with fewer images. Brackets: 95 % bootstrap interval over {units}.",
        "AUROC：一類對其餘，取平均。校準誤差：10 個區間內信心與準確率差距的平均；僅因隨機即大於 0，影像愈少愈大。"
        "方括號：對 {units} 重抽的 95 % 信賴區間。",
    ),
    "differences_note": (
        "Compared on the same {n} test images. Brackets: 95 % interval of each pair by itself. Tests: {tests}; Holm-corrected "
        "over the pairs of this table ({pairs}), so a table with more pairs confirms fewer differences. Stopped and failed "
        "trials aren't compared.",
        "於相同的 {n} 張測試影像；方括號：各對單獨的 95 % 信賴區間。檢定：{tests}；對本表 {pairs} 對做 Holm 校正，"
        "因此比較的對數愈多，成立者愈少。提前停止或失敗者不比較。",
    ),
    "at_epoch_note": (
        "As of epoch {epoch}, which {came} of {all} trials reached. This compares early training: with more epochs another "
        "trial may be best. Brackets: 95 % interval (Wilson).",
        "第 {epoch} 週期的結果，{all} 次訓練中有 {came} 次到達。僅比較訓練初期：繼續訓練後最佳者可能不同。"
        "方括號：95 % 信賴區間（Wilson）。",
    ),
    "curves_note": (
        "Rise: how far the validation loss ends above its minimum. Oscillation: root mean square change of the "
        "validation accuracy from epoch to epoch, over the second half.",
        "回升：最終驗證損失高於最低值的比例。震盪：後半段訓練中驗證準確率逐週期變化的均方根。",
    ),
    "architecture_note": (
        "{parameters} parameters; output for an image of {size} x {size} pixels.",
        "參數量 {parameters}；輸出為 {size} x {size} 像素影像之值。",
    ),
    "definitions": (
        "Accuracy: share of images whose most probable class is their label. Loss: mean cross-entropy. "
        "Brackets: 95 % interval ({interval}). Decimals follow the interval's width.",
        "準確率：機率最高的類別與標記相同的影像比例。損失：平均交叉熵。方括號：95 % 信賴區間（{interval}）。"
        "小數位數依區間寬度而定。",
    ),
    "weighted_loss": (
        "With class weights, the training loss is weighted; the validation loss isn't.",
        "使用類別權重者，其訓練損失亦加權；驗證損失不加權。",
    ),
    "selection": (
        "Selection: test results are from the epoch with the lowest validation loss (epoch n of N in parentheses). "
        "The test set isn't used to select anything.",
        "選擇規則：測試結果取自驗證損失最低的週期（括號為第 n／N 週期）。測試集不參與任何選擇。",
    ),
    "selection_folds": (
        "Selection: test results are from the epoch with the lowest validation loss (epoch n of N in parentheses). The "
        "validation images of one fold are test images of another, so the best of many rows looks somewhat better than it is: "
        "confirm it on other images.",
        "選擇規則：測試結果取自驗證損失最低的週期（括號為第 n／N 週期）。每一折的驗證影像是另一折的測試影像，"
        "因此眾多設定中的最佳者會略顯偏高，宜以其他影像確認。",
    ),
    "standing": (
        "“best”: the row with the lowest validation loss. “tie”: not distinguishable from that row on the "
        "test images ({tests}; p > 0.05 after Holm's correction for the comparisons with that row).",
        "「最佳」：驗證損失最低者。「無法區別」：測試影像無法區別其與「最佳」（{tests}；對與「最佳」的比較做 Holm 校正後"
        " p > 0.05）。",
    ),
    "repeats": (
        "± is the standard deviation over a row's completed runs; accuracies and their intervals are over all its test "
        "images. Only rows completed in the most folds and, among these, with the largest share of their seeds can be “best”.",
        "± 為該列已完成各次訓練的標準差；準確率及其信賴區間以該列所有測試影像計算。"
        "僅完成折數最多且其中種子比例最高的列可為「最佳」。",
    ),
    "one_run": (
        "One run each: differences are between these trained models; how much another seed would change isn't known.",
        "每種設定只訓練一次：差異僅就這些訓練好的模型而言，換一個隨機種子會差多少並不知道。",
    ),
    "split": ("Split: {split}.", "資料切分：{split}。"),
    "leak": (
        "WARNING: the split ignores known groups: images of one group are in more than one part, so accuracies are too high.",
        "警告：資料切分未考慮已知分組，同一組的影像分在不同的集合，準確率因而偏高。",
    ),
    "duplicate_images_across_splits": (
        "WARNING: validation and test images have an exact copy in another part of the split ({n}): accuracies are too high.",
        "警告：驗證與測試影像中有 {n} 張在其他切分中有完全相同的影像，準確率因而偏高。",
    ),
    "unreadable_skipped": ("Unreadable images left out: {n}.", "有 {n} 張影像無法讀取，未納入。"),
    "unknown_groups": (
        "Groups (slides, patients) aren't known: if images of one group are on both sides of the split, accuracies are too "
        "high.",
        "分組（切片、病人）未知：若同一組的影像同時在切分兩側，準確率會偏高。",
    ),
    "independent": (
        "Wilson intervals assume independent images; those of one group aren't, so true intervals are wider.",
        "Wilson 區間假設影像彼此獨立；同組影像並不獨立，真正的區間更寬。",
    ),
    "tested_groups": (
        "Independent groups among the test images: {groups}; bootstrap intervals and differences are over them (with "
        "cross-validation, differences are over folds).",
        "測試影像來自 {groups} 組，重抽信賴區間與差異檢定以組為單位（交叉驗證時，差異檢定以折為單位）。",
    ),
    "few_groups": (
        "WARNING: the test images come from few groups ({groups}): with fewer than {fewest}, intervals and differences say "
        "little about new groups.",
        "警告：測試影像來自太少的組（{groups}）：少於 {fewest} 組時，信賴區間與差異難以推及新的組。",
    ),
    "no_stopping": ("No early stopping.", "未使用提前停止。"),
    "stopping": (
        "Early stopping (ASHA on {metric}, from epoch {grace_period}, keeping 1 in {reduction_factor} at each rung, within "
        "{within}): {stopped} of {trials} trials stopped; they have no test accuracy and aren't ranked.",
        "提前停止（依 {metric} 的 ASHA，自第 {grace_period} 週期起，每 {reduction_factor} 個留 1 個，於 {within} 內比較）："
        "{trials} 次訓練中 {stopped} 次提前停止，無測試準確率，不列入排名。",
    ),
    "stopped_before": (
        "{stopped} of {trials} trials were stopped early in an earlier run; they have no test accuracy and aren't ranked.",
        "{trials} 次訓練中 {stopped} 次於先前的執行中提前停止，無測試準確率，不列入排名。",
    ),
    "failed": ("Failed trials: {failed} of {trials}.", "{trials} 次訓練中 {failed} 次失敗。"),
    "epochs_differ": (
        "WARNING: rows were trained for different numbers of epochs ({epochs}): accuracies and times don't "
        "compare like with like.",
        "警告：各列訓練週期數不同（{epochs}），準確率與時間並非在相同條件下取得。",
    ),
    "mixed": (
        "WARNING: rows differ in {what}: their numbers must not be compared with each other.",
        "警告：各列的 {what} 不同，數值不可互相比較。",
    ),
    "synthetic": (
        "SYNTHETIC IMAGES, drawn by a program: these numbers say nothing about real ones.",
        "合成影像，由程式繪製：這些數字不能代表真實影像。",
    ),
    "incomplete": (
        "The experiment isn't complete. Trials that have ended so far: {ended}.",
        "實驗尚未完成：目前已結束 {ended} 次訓練。",
    ),
    "source": (
        "Made by bioimg from results {fingerprint}.",
        "由 bioimg 依結果 {fingerprint} 產生。",
    ),
    "other_epochs": (
        "No trial ran for {epochs} epochs as in the report of 2023; trials with other numbers of epochs are shown instead.",
        "沒有如 2023 年報告訓練 {epochs} 週期的結果，改列現有的結果。",
    ),
    "none": ("No trial matches.", "沒有符合的訓練結果。"),
    "empty": (
        "Nothing to show: no trial has the data that this table needs.",
        "無資料：沒有任何訓練結果具備所需內容。",
    ),
    "effects_note": (
        "Least squares over completed trials; t intervals cover the sampling of test images (if predictions are recorded) and "
        "what the model leaves "
        "unexplained; p isn't corrected for the number of rows. An interaction is what both levels together add to the sum of "
        "their effects.",
        "以已完成的訓練做最小平方估計；t 信賴區間涵蓋測試影像的抽樣與模型未解釋的部分；p 未做多重比較校正。"
        "交互作用為兩水準並用時超出各別影響之和的部分。",
    ),
    "cost_note": (
        "Training time covers training and validation only; device time is that multiplied by the trial's devices; "
        "saved time is estimated from the trial's own epochs. In the total, epochs that a longer trial continued from count "
        "once.",
        "訓練時間僅含訓練與驗證；裝置時間為其乘以裝置數；省下的時間由該次訓練自身的週期估計。"
        "合計中，由較長訓練接續的週期只計一次。",
    ),
    "completed": ("completed", "完成"),
    "stopped": ("stopped after {run}/{epochs}", "於 {run}/{epochs} 週期提前停止"),
    "failed_row": ("failed: {error}", "失敗：{error}"),
    "count_completed": ("{n} completed", "{n} 次完成"),
    "count_stopped": ("{n} stopped", "{n} 次提前停止"),
    "count_failed": ("{n} failed", "{n} 次失敗"),
    "best": ("best", "最佳"),
    "total": ("total", "合計"),
    "tie": ("tie", "無法區別"),
    "worse": ("worse", "較差"),
    "better": ("better", "較佳"),
}


def column_header(name: str, lang: str) -> str:
    """The header of a column; for an unknown column, its name."""
    return COLUMN_HEADERS.get(name, (name, name))[language_index(lang)]


def table_text(name: str, lang: str, **values: object) -> str:
    """A text with its values filled in."""
    return TABLE_TEXTS[name][language_index(lang)].format(**values)


def language_index(lang: str) -> int:
    """The place of a language in each pair of texts.

    Raises:
        UserError: there is no such language.
    """
    if lang not in LANGUAGES:
        raise unknown_value_error("lang", lang, LANGUAGES)
    return LANGUAGES.index(lang)
