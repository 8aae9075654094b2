"""The grid of the report that this project grew out of: ResNeXt-50 on six tissue classes.

    python experiments/grid.py report --data DIR

Asks: ImageNet weights V1 or V2, batch size 32, 64 or 128, all layers trained or the head alone?
"""

from bioimg.config import TrialConfig
from bioimg.experiment import EarlyStopping, Experiment

EXPERIMENT = Experiment(
    name="report",
    base=TrialConfig(data="kather2016-6", model="resnext50_32x4d", image_size=150, epochs=50),
    axes={
        "weights": ("IMAGENET1K_V1", "IMAGENET1K_V2"),
        "batch_size": (32, 64, 128),
        "freeze": ("none", "features"),
    },
    early_stopping=EarlyStopping(grace_period=5),
)
