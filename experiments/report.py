"""The grid of the report that this project grew out of: ResNeXt-50 on six tissue classes.

    bioimg compare report --data DIR

Asks: ImageNet weights V1 or V2, batch size 32, 64 or 128, all layers trained or the head alone?
Each of these recipes has its own best of three learning rates, since one rate for all favours those
that it suits. The report had one, of 1e-4. A head alone starts from ten times the rate.
Without --data the six classes of Kather 2016 are downloaded from Zenodo (3,750 tiles of 150 px).

Cost: not measured, since it needs a GPU and ImageNet weights. The report's own nine runs took 125
minutes on one. Outcome to compare with: the report had 0.94 (V1, batch 128) and 0.95 (V2, batch
128) trained in full, and 0.88 and 0.86 frozen, on a split that leaks slides. Add
--split grouped --group-pattern 'HE-(\\d+)' for one that doesn't.
"""

from bioimg.config import TrialConfig
from bioimg.experiment import EarlyStopping, Experiment

EXPERIMENT = Experiment(
    name="report",
    base=TrialConfig(
        data="kather2016-6",
        model="resnext50_32x4d",
        image_size=150,
        epochs=50,
        head_rate_factor=10.0,
    ),
    axes={
        "weights": ("IMAGENET1K_V1", "IMAGENET1K_V2"),
        "batch_size": (32, 64, 128),
        "freeze": ("none", "features"),
        "learning_rate": (3e-5, 1e-4, 3e-4),
    },
    tune=("learning_rate",),
    early_stopping=EarlyStopping(grace_period=5),
)
