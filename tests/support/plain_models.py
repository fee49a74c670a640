"""The models of all methods, as their libraries' documentation makes them."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from finetune_api.run import Classes


def plain_model(
    tiny_model: Path,
    method: dict[str, Any],
    classes: Classes | None = None,
    *,
    seed: int = 42,
    new_tokens: Sequence[str] = (),
) -> Any:
    """Return the model of a method as its libraries' documentation makes it; a new head begins as it does here."""
    import torch
    from transformers import BitsAndBytesConfig

    from finetune_trainer.model.kind import ModelKind

    quantization = None
    if method["type"] == "qlora":
        quantization = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
        )
        if method.get("quantization", {}).get("bits") == 8:
            quantization = BitsAndBytesConfig(load_in_8bit=True)
    kind = ModelKind.of(classes)
    model = kind.auto_class.from_pretrained(
        tiny_model,
        dtype=torch.float32,
        attn_implementation="eager",
        quantization_config=quantization,
        **kind.options(tiny_model),
    )
    kind.begin(model, seed)
    torch.manual_seed(seed)
    model = _adapted(tiny_model, model, method, "SEQ_CLS" if classes else "CAUSAL_LM", new_tokens)
    return model.train()  # in evaluation mode, bitsandbytes computes 4 bits in bf16 on CPUs that have it


def write_adapter(tiny_model: Path, directory: Path) -> None:
    """Write an adapter as peft does, with the matrix that is embeddings and head; the same at every call."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    saved = {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=10, target_modules=["q_proj", "up_proj"], **saved)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32), config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_A" in name:  # peft draws these at random
                torch.nn.init.normal_(parameter, std=0.1, generator=generator)
            elif parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    model.save_pretrained(directory, save_embedding_layers=False)


def _adapted(tiny_model: Path, model: Any, method: dict[str, Any], task: str, new_tokens: Sequence[str]) -> Any:
    import torch
    from peft import IA3Config, PrefixTuningConfig, PromptTuningConfig, get_peft_model

    if method["type"] == "freeze":
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name.startswith(("model.layers.1.", "model.norm", "score"))
    if method["type"] in ("lora", "qlora"):
        model = _low_rank(tiny_model, model, method, task, new_tokens)
    if method["type"] == "ia3":
        model = get_peft_model(model, IA3Config(task_type=task), autocast_adapter_dtype=False)
    if method["type"] == "prompt":
        config = PromptTuningConfig(task_type=task, num_virtual_tokens=20, prompt_tuning_init="SAMPLE_VOCAB")
        model = get_peft_model(model, config)
    if method["type"] == "prefix":
        model = get_peft_model(model, PrefixTuningConfig(task_type=task, num_virtual_tokens=20))
        torch.nn.init.normal_(model.prompt_encoder["default"].embedding.weight, std=0.02)
    if method["type"] == "adapter":
        model.requires_grad_(False)
        for layer in model.model.layers:
            layer.mlp = _with_bottleneck(layer.mlp)
    return model


def _low_rank(tiny_model: Path, model: Any, method: dict[str, Any], task: str, new_tokens: Sequence[str]) -> Any:
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoTokenizer

    if "initialAdapter" in method:
        with TemporaryDirectory() as folder:
            write_adapter(tiny_model, Path(folder))
            return PeftModel.from_pretrained(model, folder, is_trainable=True)
    options: dict[str, Any] = {"use_dora": method.get("lora", {}).get("useDora", False)}
    if new_tokens:
        tokenizer = AutoTokenizer.from_pretrained(tiny_model)
        options["trainable_token_indices"] = tokenizer.convert_tokens_to_ids([*new_tokens])
    config = LoraConfig(task_type=task, r=16, lora_alpha=32, target_modules="all-linear", **options)
    return get_peft_model(model, config, autocast_adapter_dtype=False)


def _with_bottleneck(mlp: Any) -> Any:
    """Return feed-forward of width 64 with an adapter of width 4 behind it."""
    import torch

    class Behind(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp, self.down, self.up = mlp, torch.nn.Linear(64, 4), torch.nn.Linear(4, 64)
            torch.nn.init.zeros_(self.up.weight)
            torch.nn.init.zeros_(self.up.bias)

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            fed = self.mlp(hidden)
            return fed + self.up(torch.relu(self.down(fed)))

    return Behind()
