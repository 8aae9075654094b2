"""Which backbone suits these images: a CNN, a general transformer, or one trained on pathology?

    bioimg compare backbones --data DIR

Asks: ResNet-50 (ImageNet), DINOv2-S (general images) or kaiko's ViT-S (pathology slides), with the
head alone trained, or the last two blocks with it? Each of these recipes has its own best of three
learning rates, since transformers and CNNs, heads and blocks need different ones.

The weights of the two transformers come from the Hugging Face hub (90 MB each; `bioimg fetch` gets
them beforehand). Those of kaiko must not be used commercially. Larger ones are named in the same
way once you have accepted their conditions: `--model uni2-h virchow2 h-optimus-0`.

Cost: not measured, since it needs downloads and a GPU. The head alone costs one pass of each image
through each backbone. Expect, on stained tissue, the pathology model ahead with the head alone, and
less of a difference where more layers are trained.
"""

from bioimg.config import TrialConfig
from bioimg.experiment import Experiment

EXPERIMENT = Experiment(
    name="backbones",
    base=TrialConfig(
        data="kather2016-6",
        weights="DEFAULT",
        image_size=224,
        epochs=20,
        head_rate_factor=10.0,
    ),
    axes={
        "model": ("resnet50", "timm:vit_small_patch14_dinov2.lvd142m", "kaiko"),
        "freeze": ("features", "last2"),
        "learning_rate": (3e-5, 1e-4, 3e-4),
    },
    tune=("learning_rate",),
)
