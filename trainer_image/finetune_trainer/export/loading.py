"""How a result is loaded: the lines of Python that a model card gives its reader."""

from finetune_api.spec import FineTuneJobSpec, Quantization
from finetune_trainer.methods import method_of

_RESIZED = ["base.resize_token_embeddings(max(len(tokenizer), base.config.get_text_config().vocab_size))"]
"""A base model from S3 has no rows for the tokens that the job added; the adapter has their values."""
_STOPS = ['base.generation_config = GenerationConfig.from_pretrained("adapter")']
"""A base model knows the tokens that ended its own answers. Set before the adapter is put in: peft takes it from
there, while of what is set on its model it hands a part on to the wrong one."""


def how_to_load(spec: FineTuneJobSpec) -> str:
    """Return the section of the model card."""
    is_adapter = method_of(spec.method).result == "adapter"
    lines = _adapter(spec) if is_adapter else _whole(spec)
    where = f"`base` is a copy of `{spec.model.uri}`" if is_adapter else "The folder is that of this result"
    if spec.output.merge:
        where += "; `merged/` is a whole model that needs neither base nor adapter"
    return "\n".join(["## Loading it\n", f"{where}.\n", "```python", *lines, "```\n"])


def _auto_class(spec: FineTuneJobSpec) -> str:
    return "AutoModelForSequenceClassification" if spec.objective == "classification" else "AutoModelForCausalLM"


def _whole(spec: FineTuneJobSpec) -> list[str]:
    auto = _auto_class(spec)
    return [
        f"from transformers import {auto}, AutoTokenizer",
        "",
        'tokenizer = AutoTokenizer.from_pretrained("merged")',
        f'model = {auto}.from_pretrained("merged")',
    ]


def _adapter(spec: FineTuneJobSpec) -> list[str]:
    auto, method = _auto_class(spec), spec.method.spelled_out()
    names, options, stops = [auto, "AutoTokenizer"], "", _STOPS
    if spec.objective == "classification":
        names.insert(0, "AutoConfig")
        options, stops = ', config=AutoConfig.from_pretrained("adapter")', []
    else:
        names.append("GenerationConfig")
    if method.quantization:
        names.append("BitsAndBytesConfig")
        options += ", quantization_config=few_bits"
    own = method.type == "adapter"
    # The loader of `adapter` is a file of its own, not a package.
    loader, load = ("load_adapter", "load") if own else ("peft", "PeftModel")
    return [
        *(["import torch"] if method.quantization else []),
        *([] if own else [f"from {loader} import {load}"]),
        f"from transformers import {', '.join(names)}",
        *(["", f"from {loader} import {load}  # the file in the folder `adapter`"] if own else []),
        "",
        *(_few_bits(method.quantization) if method.quantization else []),
        'tokenizer = AutoTokenizer.from_pretrained("adapter")',
        f'base = {auto}.from_pretrained("base"{options})',
        *(_RESIZED if spec.model.new_tokens else []),
        *stops,
        f'model = {load}{"" if own else ".from_pretrained"}(base, "adapter")',
    ]


def _few_bits(quantization: Quantization) -> list[str]:
    if quantization.bits == 8:
        return ["few_bits = BitsAndBytesConfig(load_in_8bit=True)"]
    return [
        "few_bits = BitsAndBytesConfig(",
        "    load_in_4bit=True,",
        f'    bnb_4bit_quant_type="{quantization.quant_type}",',
        f"    bnb_4bit_use_double_quant={quantization.double_quant},",
        "    bnb_4bit_compute_dtype=torch.bfloat16,",
        ")",
    ]
