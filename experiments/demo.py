"""The whole idea in a minute, without data, downloads or a GPU.

    python experiments/grid.py

Asks: of two kinds of pretrained weights, three batch sizes, and a backbone that is trained or frozen, which does best on a
synthetic set of tissue-like tiles (it is drawn by a program: no figure here says anything about real tissue)?

Cost: 45 s on 2 CPU cores, of which half is Ray's start. Outcome: TEXTURES_V2 is right on 0.84 to 0.86 of the test images,
whether its backbone is trained or frozen, and frozen ones cost a fraction of the time; TEXTURES_V1's frozen features are worse
(0.65 to 0.70). ASHA stops five of the six trained in full, four of them after 3 of 10 epochs; `--finish` takes them to their
end.
"""

from bioimg.config import TrialConfig
from bioimg.experiment import EarlyStopping, Experiment

EXPERIMENT = Experiment(
    name="demo",
    base=TrialConfig(data="phantom", model="resnext_tiny", image_size=64, epochs=10, learning_rate=5e-4),
    axes={
        "weights": ("TEXTURES_V1", "TEXTURES_V2"),
        "batch_size": (16, 32, 64),
        "freeze": ("none", "features"),
    },
    early_stopping=EarlyStopping(grace_period=3),
)
