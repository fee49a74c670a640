"""Methods `prompt` and `prefix`: trained virtual tokens before every document of a packed run.

peft holds what is trained and knows its file, but its own forward passes know rows of a padded batch alone. Here the
decoder's inputs are changed on their way in: for `prompt` each document is preceded by the trained embeddings
(https://arxiv.org/abs/2104.08691), for `prefix` each layer's attention gets trained keys and values that stand before
each document's own (https://arxiv.org/abs/2101.00190). The documents' positions go on after the virtual tokens, and
what comes out is hidden states of the documents' own tokens alone, so that no objective has to know of them.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, PrefixEncoder, PrefixTuningConfig, PromptTuningConfig
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel

from finetune_api.spec import Prefix, Prompt
from finetune_trainer.methods.adapter import ADAPTER, Adapter
from finetune_trainer.methods.freeze import TRAINED_TENSORS
from finetune_trainer.methods.given import Given
from finetune_trainer.model.attention import Documents
from finetune_trainer.model.sharded import whole

PROMPT_EMBEDDINGS = "prompt_embeddings"
"""peft's key of the only tensor in the file of a prompt or prefix."""
_PREFIX_STD = 0.02
"""Keys and values begin near zero, so that the model begins near what it was, but not as each other's copies."""


class SoftPrompt(Adapter):
    """Trains virtual tokens."""

    def adapt(self, model: PreTrainedModel) -> PreTrainedModel | PeftModel:
        """Freeze the model and put virtual tokens before every document."""
        with _checkpointing_off(model):
            adapted = super().adapt(model)
        assert isinstance(adapted, PeftModel)  # noqa: S101 - peft made it
        # peft registers the embeddings a second time; DeepSpeed would store them in every checkpoint.
        adapted.__dict__["word_embeddings"] = adapted._modules.pop("word_embeddings")
        encoder = adapted.prompt_encoder[ADAPTER].to(model.dtype)
        self.initialise(encoder, model)
        self.hook(model.get_decoder(), encoder)
        return adapted

    def initialise(self, encoder: Any, model: PreTrainedModel) -> None:
        """Give the virtual tokens the values that they begin with."""
        raise NotImplementedError

    def hook(self, decoder: nn.Module, encoder: nn.Module) -> None:
        """Let the decoder see the virtual tokens wherever it is given documents."""
        raise NotImplementedError

    def file_keys(self, model: nn.Module) -> dict[str, str]:
        """Return the trained parameter under the key that peft reads."""
        return {f"prompt_encoder.{ADAPTER}.embedding.weight": PROMPT_EMBEDDINGS}

    def copies(self, model: nn.Module) -> dict[str, str]:
        """Return nothing: virtual tokens have no further keys."""
        return {}


class PromptTuning(SoftPrompt):
    """Trains embeddings before every document."""

    block = "spec.method.prompt"

    def __init__(self, settings: Prompt, given: Given) -> None:
        self._settings = settings
        self._given = given

    def config(self, model: PreTrainedModel) -> PeftConfig:
        """Return peft's settings."""
        return PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=self._settings.num_virtual_tokens)

    def initialise(self, encoder: Any, model: PreTrainedModel) -> None:
        """Begin with the embeddings of tokens: of the text, or drawn at random."""
        count, embedding = self._settings.num_virtual_tokens, model.get_input_embeddings()
        tokens = torch.randint(model.config.get_text_config().vocab_size, (count,))
        if self._settings.init == "text" and self._given.tokenizer is not None:
            text = _tokens_of(self._settings.init_text, self._given.tokenizer)
            tokens = torch.tensor((text * count)[:count], device=tokens.device)
        with whole(embedding.weight), torch.no_grad():
            # Some models scale embeddings within the module; what hooks add to its output is no part of the tokens.
            encoder.embedding.weight.copy_(embedding.forward(tokens.to(embedding.weight.device)))

    def hook(self, decoder: nn.Module, encoder: nn.Module) -> None:
        """Insert the embeddings, and leave the virtual tokens' hidden states out of what is returned."""

        def insert(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            documents: Documents | None = kwargs.get("documents")
            if documents is None or documents.virtual is None:  # peft's own forward pass: it has inserted them
                return None
            virtual, positions = documents.virtual, kwargs["position_ids"][0]
            tokens = torch.arange(virtual.count, device=positions.device)
            embedded = module.get_input_embeddings()(kwargs["input_ids"])[0]
            return args, {
                **kwargs,
                "input_ids": None,
                "inputs_embeds": virtual.before(encoder(tokens), embedded)[None],
                "position_ids": virtual.before(tokens, positions + virtual.count)[None],
            }

        def leave_out(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            documents: Documents | None = kwargs.get("documents")
            if documents is not None and documents.virtual is not None:
                output.last_hidden_state = output.last_hidden_state.index_select(1, documents.virtual.texts)
            return output

        decoder.register_forward_pre_hook(insert, with_kwargs=True)
        decoder.register_forward_hook(leave_out, with_kwargs=True)


class PrefixTuning(SoftPrompt):
    """Trains keys and values before every document's, in every layer."""

    block = "spec.method.prefix"

    def __init__(self, settings: Prefix) -> None:
        self._settings = settings
        if settings.projection_size is not None:
            # What peft reads is computed from what is trained, so that is stored; the export makes the other.
            self.weights_name = TRAINED_TENSORS

    def config(self, model: PreTrainedModel) -> PeftConfig:
        """Return peft's settings."""
        return PrefixTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=self._settings.num_virtual_tokens,
            prefix_projection=self._settings.projection_size is not None,
            encoder_hidden_size=self._settings.projection_size,
        )

    def initialise(self, encoder: Any, model: PreTrainedModel) -> None:
        """Begin near zero; a network keeps what torch gives it."""
        if self._settings.projection_size is None:
            nn.init.normal_(encoder.embedding.weight, std=_PREFIX_STD)

    def hook(self, decoder: nn.Module, encoder: nn.Module) -> None:
        """Give the layers their keys and values."""
        layers, heads = _shape_of(decoder)

        def insert(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            documents: Documents | None = kwargs.get("documents")
            if documents is None or documents.virtual is None:  # peft's own forward pass: it has inserted them
                return None
            positions, count = kwargs["position_ids"], documents.virtual.count
            prefix = encoder(torch.arange(count, device=positions.device)).view(count, layers, 2, heads, -1)
            return args, {**kwargs, "prefix": prefix, "position_ids": positions + count}

        decoder.register_forward_pre_hook(insert, with_kwargs=True)

    def file_keys(self, model: nn.Module) -> dict[str, str]:
        """Return what is trained: the keys and values as peft reads them, or the network that makes them."""
        if self._settings.projection_size is None:
            return super().file_keys(model)
        assert isinstance(model, PeftModel)  # noqa: S101 - adapt returned it
        names = [name for name, _ in model.prompt_encoder[ADAPTER].named_parameters()]
        return {f"prompt_encoder.{ADAPTER}.{name}": name for name in names}


def write_projected(weights: Path, target: Path) -> None:
    """Write what a trained network makes of its prefix, as peft reads it: `adapter_model.safetensors`."""
    trained: Mapping[str, torch.Tensor] = load_file(weights / TRAINED_TENSORS)
    config = PrefixTuningConfig.from_pretrained(weights)
    config.inference_mode = False  # peft makes the network for training alone
    encoder = PrefixEncoder(config).to(trained["embedding.weight"].dtype)
    encoder.load_state_dict(trained)
    with torch.no_grad():
        prefix = encoder(torch.arange(config.num_virtual_tokens))
    save_file({PROMPT_EMBEDDINGS: prefix}, target / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})


def _shape_of(decoder: nn.Module) -> tuple[int, int]:
    """Return the layers of a decoder, and the heads of its keys and values."""
    config: Any = decoder.config
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return text.num_hidden_layers, heads


def _tokens_of(text: str, tokenizer: Path) -> list[int]:
    """Return the tokens of a text, at least one."""
    loaded = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    tokens: list[int] = loaded(text, add_special_tokens=False)["input_ids"]
    if not tokens:
        raise ValueError("initText holds no token")
    return tokens


@contextmanager
def _checkpointing_off(model: PreTrainedModel) -> Iterator[None]:
    """While this lasts, no activations are recomputed: peft's prefix is a cache and would not bear it; ours does."""
    modules: list[Any] = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    for module in modules:
        module.gradient_checkpointing = False
    try:
        yield
    finally:
        for module in modules:
            module.gradient_checkpointing = True
