"""Define and check the options about pretrained weights and how they are trained.

Importing this module does not import Keras.
"""

from __future__ import annotations

from dataclasses import dataclass

from cnnforge.optimizer_options import option, require


@dataclass(frozen=True, kw_only=True)
class FineTuningOptions:
    """The pretrained weights, and how they are trained.

    Args:
        weights: `"imagenet"`, `"none"`, or a run or file with pretrained weights. `None`: ImageNet
            weights if the model has some that are installed, and otherwise none.
        freeze_epochs: Number of epochs at the beginning in which only the head is trained. `None`:
            a quarter of all epochs if the weights are pretrained, and otherwise 0.
        backbone_rate: Factor for the learning rate of the backbone, more than 0 and at most 1.
            `None`: 0.1 if the weights are pretrained, and otherwise 1.

    Raises:
        UsageError: A value is out of range.
    """

    weights: str | None = option(
        None,
        "imagenet|none|FILE",
        "Pretrained weights to fine-tune; FILE is a run or a file, as for --init-from.",
        "imagenet if they are installed with the model, else none",
    )
    freeze_epochs: int | None = option(
        None,
        "N",
        "Epochs at the beginning in which only the new head is trained.",
        "a quarter of the epochs with pretrained weights",
    )
    backbone_rate: float | None = option(
        None,
        "X",
        "Factor for the learning rate of the pretrained layers.",
        "0.1 with pretrained weights",
    )

    def check_fine_tuning(self) -> None:
        """Check the values.

        Raises:
            UsageError: A value is out of range.
        """
        frozen, rate = self.freeze_epochs, self.backbone_rate
        require(frozen is None or frozen >= 0, "freeze_epochs", frozen, "0 or more")
        require(rate is None or 0 < rate <= 1, "backbone_rate", rate, "more than 0 and at most 1")
