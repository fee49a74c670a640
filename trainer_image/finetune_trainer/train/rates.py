"""Policy: at which share of the run's learning rate each parameter learns."""

from collections.abc import Mapping

from torch import nn
from transformers import PreTrainedModel

from finetune_trainer.methods.freeze import decoder_layers


def layer_rates(model: PreTrainedModel, decay: float) -> Mapping[nn.Parameter, float]:
    """Return decay ** (layers above) for each parameter of a layer and of the embeddings.

    The head and what else follows the last layer learn at the full rate and are not listed; an embedding that is also
    the head counts as an embedding. Discriminative fine-tuning (https://arxiv.org/abs/1801.06146, section 3.2).
    """
    if decay == 1:
        return {}
    layers = decoder_layers(model)
    rates = {
        parameter: decay ** (len(layers) - index)
        for index, layer in enumerate(layers)
        for parameter in layer.parameters()
    }
    return rates | {parameter: decay ** (len(layers) + 1) for parameter in model.get_input_embeddings().parameters()}
