"""Tokenizers with the chat templates of well-known models, conversations, and masks as text.

Templates whose names begin with trl/ are the models' own, read from the installed package that carries them; those
under tests/golden/templates are written here, in the manner of well-known models.
"""

import importlib.util
from pathlib import Path
from typing import Any

from finetune_trainer.prepare.conversation import Conversation, Turn

GOLDEN = Path(__file__).parent.parent / "golden"
LLAMA = ("<|begin_of_text|>", "<|eot_id|>", ["<|start_header_id|>", "<|end_header_id|>", "<|end_of_text|>"])
QWEN = (None, "<|im_end|>", ["<|im_start|>", "<|endoftext|>"])
GEMMA = ("<bos>", "<eos>", ["<start_of_turn>", "<end_of_turn>"])
PHI = (None, "<|endoftext|>", ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"])
MISTRAL_TOOLS = [
    *("[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
]
TOKENS: dict[str, tuple[str | None, str, list[str]]] = {  # name of the template: bos, eos, further special tokens
    "chatml": QWEN,
    "llama3": LLAMA,
    "gemma": GEMMA,
    "mistral": ("<s>", "</s>", []),
    "mistral-tools": ("<s>", "</s>", MISTRAL_TOOLS),
    "plain": (None, "</s>", []),
    "think": QWEN,
    "trl/llama3": LLAMA,
    "trl/llama3_1": LLAMA,
    "trl/llama3_2": LLAMA,
    "trl/qwen2_5": QWEN,
    "trl/qwen3": QWEN,
    "trl/qwen3_instruct_2507": QWEN,
    "trl/gemma": GEMMA,
    "trl/gemma3": GEMMA,
    "trl/phi3": PHI,
    "trl/phi3_5": PHI,
}
TURNS = (
    Turn("system", "Be brief."),
    Turn("user", "How do I reset my password?"),
    Turn("assistant", "Open the settings 🙂."),
    Turn("user", "  And then?"),
    Turn("assistant", "Press “reset”.\n\nDone."),
)
WITHOUT_SYSTEM = Conversation(TURNS[1:])
CALL = {"id": "call12345", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Rome"}}}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
WITH_TOOLS = Conversation(
    (
        Turn("user", "What is the weather in Rome?"),
        Turn("assistant", "", {"tool_calls": [CALL]}),
        Turn("tool", '{"celsius": 21}', {"tool_call_id": "call12345", "name": "get_weather"}),
        Turn("assistant", "It is 21 °C."),
        Turn("user", "Thanks!"),
        Turn("assistant", "You are welcome."),
    ),
    (WEATHER,),
)


def template_of(name: str) -> str:
    """Return the text of a template."""
    if not name.startswith("trl/"):
        return (GOLDEN / "templates" / f"{name}.jinja").read_text()
    spec = importlib.util.find_spec("trl")
    assert spec is not None
    assert spec.submodule_search_locations
    return (Path(spec.submodule_search_locations[0]) / "chat_templates" / f"{name[4:]}.jinja").read_text()


def make_tokenizer(name: str, *, metaspace: bool = False) -> Any:
    """Make a tokenizer: byte-level BPE, or one with word-start marks as SentencePiece models have."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bos, eos, further = TOKENS[name]
    specials = [token for token in (bos, eos, *further, "<unk>") if token]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>" if metaspace else None, byte_fallback=False))
    if metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=specials)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=specials, initial_alphabet=alphabet)
    texts = [turn.content for turn in TURNS] + ["User: Assistant: [INST] [/INST]\n\n"] * 5
    tokenizer.train_from_iterator(texts, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, additional_special_tokens=further
    )
    fast.chat_template = template_of(name)
    return fast


def bracketed(tokenizer: Any, row: Any) -> str:
    """Return the text of an encoded row with each supervised span as [[...]]."""
    parts, start = [], 0
    for end in range(1, len(row.input_ids) + 1):
        if end == len(row.input_ids) or row.supervised[end] != row.supervised[start]:
            text = tokenizer.decode(row.input_ids[start:end], clean_up_tokenization_spaces=False)
            parts.append(f"[[{text}]]" if row.supervised[start] else text)
            start = end
    return "".join(parts)


def golden_mask(name: str) -> str:
    """Return the text that a mask is known to have."""
    return (GOLDEN / "masks" / f"{name}.txt").read_text()
