"""The built-in networks, and the prefixes that bring other libraries' networks."""

from __future__ import annotations

from ..base.names import Entry, Registry

MODELS = Registry(
    "model",
    {
        "mlp": Entry("landscape.models.mlp:mlp", "fully connected network (hidden=64,64; activation=relu)"),
        "convnet": Entry("landscape.models.convnet:convnet", "small convolutional network (BatchNorm optional)"),
        "vit": Entry("landscape.models.vit:vit", "small vision transformer (patch=4; width=48; depth=3; heads=4)"),
        "resnet20": Entry("landscape.models.resnet:resnet20", "CIFAR ResNet of He et al. 2015, 269,722 parameters"),
        "resnet32": Entry("landscape.models.resnet:resnet32", "CIFAR ResNet of He et al. 2015, 464,154 parameters"),
        "resnet44": Entry("landscape.models.resnet:resnet44", "CIFAR ResNet of He et al. 2015, 658,586 parameters"),
        "resnet56": Entry("landscape.models.resnet:resnet56", "CIFAR ResNet of He et al. 2015, 853,018 parameters"),
        "torchvision:NAME": Entry("landscape.models.libraries:torchvision_model", "any network of torchvision"),
        "timm:NAME": Entry("landscape.models.libraries:timm_model", "any network of timm"),
        "hf:NAME_OR_FOLDER": Entry(
            "landscape.models.libraries:hf_model",
            "a network of transformers, from a folder or the hub (task=text-classification)",
        ),
    },
)
