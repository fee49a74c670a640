"""Policy: at which share of the run's learning rate each parameter learns."""

from collections.abc import Mapping

from torch import nn
from transformers import PreTrainedModel

from finetune_api.spec import Method, Training
from finetune_trainer.methods.freeze import decoder_layers

_B_MATRICES = {"lora_B", "lora_embedding_B"}
"""peft's names."""


def rates_of(model: PreTrainedModel, method: Method, training: Training) -> Mapping[nn.Parameter, float]:
    """Return the share of each parameter that does not learn at the run's own rate."""
    rates = layer_rates(model, training.layerwise_learning_rate_decay)
    ratio = method.lora.lora_plus_ratio if method.lora else 1.0
    return rates if ratio == 1 else {**rates, **_lora_plus(model, ratio, rates)}


def _lora_plus(
    model: PreTrainedModel, ratio: float, rates: Mapping[nn.Parameter, float]
) -> Mapping[nn.Parameter, float]:
    """Return `ratio` times their share for all B matrices, which begin at zero (https://arxiv.org/abs/2402.12354)."""
    return {
        parameter: ratio * rates.get(parameter, 1.0)
        for name, parameter in model.named_parameters()
        if not _B_MATRICES.isdisjoint(name.split("."))
    }


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
