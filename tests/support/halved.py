"""A plugin whose layer has a stock layer of its own as its reference."""

from cnnforge.plugin import LayerSpec, ModelSpec, hookimpl


@hookimpl
def cnnforge_layers():
    return [
        LayerSpec(
            name="halved",
            target="halved_layer:Halved",
            summary="half of the inputs",
            reference="halved_stock:Halved",
        )
    ]


@hookimpl
def cnnforge_models():
    return [ModelSpec(name="halved_net", target="halved_net:build", summary="one layer")]
