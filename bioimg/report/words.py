"""The words of figures and page, in English and Traditional Chinese. Values from the data are never translated."""

from collections.abc import Mapping

from bioimg.config import unknown

ENGLISH = {
    # fields
    "weights": "weights",
    "batch_size": "batch",
    "freeze": "freeze",
    "epochs": "epochs",
    "learning_rate": "learning rate",
    "image_size": "image size",
    "weight_decay": "weight decay",
    "group_pattern": "group pattern",
    # curves
    "epoch": "epoch",
    "loss": "loss",
    "accuracy": "accuracy",
    "train": "training",
    "val": "validation",
    "selected": "selected: lowest validation loss",
    "selected_epoch": "selected: epoch {epoch} of {epochs}",
    "val_loss": "validation loss",
    "val_accuracy": "validation accuracy",
    "ended": "stopped early",
    "failed_at": "failed",
    "status_stopped": "stopped early after {run} of {epochs} epochs",
    "status_failed": "failed in epoch {run} of {epochs}",
    "status_completed": "{epochs} epochs",
    # others
    "test_accuracy": "test accuracy",
    "train_seconds": "training time, s",
    "interval": "bars: 95 % Wilson interval of {n} test images",
    "not_shown": "not shown: {stopped} stopped and {failed} failed trials, which have no test accuracy",
    "effect": "change of the test accuracy, percentage points",
    "effects": "Mean effect of one level instead of another, the other axes held equal, and (diamonds) what two levels together add to the sum of their effects; 95 % intervals; completed trials only",
    "instead": "{axis}: {level} instead of {reference}",
    "together": "{} with {}",
    "label": "label",
    "prediction": "prediction",
    "share": "share of the label's images",
    "confidence": "confidence of the prediction",
    "perfect": "perfectly calibrated",
    "ece": "expected calibration error {ece:.3f}",
    "right": "share that is right",
    "mistake": "{label}\ncalled {prediction} ({probability:.0f} %)",
    "no_images": "images were\nnot given",
    "mistakes": "Worst {n} of {wrong} mistakes among {images} test images",
    "first": "the {n} of {all} with the lowest validation loss",
    # notes
    "data": "data",
    "synthetic": "SYNTHETIC IMAGES: drawn by a program, they say nothing about real ones",
    "leak": "The split ignores known groups: images of one group are in training and in test, so accuracies are too high",
}

CHINESE = {
    "weights": "預訓練權重",
    "batch_size": "批次大小",
    "freeze": "凍結",
    "epochs": "訓練週期數",
    "learning_rate": "學習率",
    "image_size": "影像大小",
    "weight_decay": "權重衰減",
    "group_pattern": "分組規則",
    "model": "模型",
    "split": "資料切分",
    "schedule": "學習率排程",
    "optimizer": "最佳化器",
    "augmentation": "資料增強",
    "seed": "隨機種子",
    "workers": "行程數",
    "precision": "精度",
    "epoch": "訓練週期",
    "loss": "損失",
    "accuracy": "準確率",
    "train": "訓練",
    "val": "驗證",
    "selected": "選用：驗證損失最低",
    "selected_epoch": "選用：第 {epoch}／{epochs} 週期",
    "val_loss": "驗證損失",
    "val_accuracy": "驗證準確率",
    "ended": "提前停止",
    "failed_at": "失敗",
    "status_stopped": "於第 {run}／{epochs} 週期提前停止",
    "status_failed": "於第 {run}／{epochs} 週期失敗",
    "status_completed": "{epochs} 週期",
    "test_accuracy": "測試準確率",
    "train_seconds": "訓練時間（秒）",
    "interval": "誤差線：{n} 張測試影像的 95 % Wilson 信賴區間",
    "not_shown": "未顯示：提前停止 {stopped} 個、失敗 {failed} 個，皆無測試準確率",
    "effect": "測試準確率的變化（百分點）",
    "effects": "其他條件相同時以一個值取代另一個值的平均效果；菱形為兩個值一起時超出兩者效果之和的部分；95 % 信賴區間；只計完成的試驗",
    "instead": "{axis}：{level} 取代 {reference}",
    "together": "{} 與 {}",
    "label": "真實類別",
    "prediction": "預測類別",
    "share": "佔該類別影像的比例",
    "confidence": "預測的信心",
    "perfect": "完全校準",
    "ece": "期望校準誤差 {ece:.3f}",
    "right": "預測正確的比例",
    "mistake": "{label}\n誤判為 {prediction}（{probability:.0f} %）",
    "no_images": "未提供影像",
    "mistakes": "{images} 張測試影像中 {wrong} 個錯誤裡最嚴重的 {n} 個",
    "first": "{all} 個中驗證損失最低的 {n} 個",
    "data": "資料",
    "synthetic": "合成影像：由程式繪製，不能代表真實影像",
    "leak": "資料切分未考慮已知分組：同一組的影像同時在訓練集與測試集，準確率因而偏高",
}

LANGUAGES = {"en": ENGLISH, "zh-TW": CHINESE}


def words(lang: str) -> Mapping[str, str]:
    """The words of a language.

    Raises:
        UserError: there is no such language.
    """
    if lang not in LANGUAGES:
        raise unknown("lang", lang, LANGUAGES)
    return LANGUAGES[lang]
