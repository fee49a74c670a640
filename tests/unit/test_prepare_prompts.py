"""A sample prompt is given to the model as the prompt of a row would be."""

import pytest
from transformers import AutoTokenizer

from finetune_api.exitcodes import ExitCode
from finetune_api.spec import Evaluation
from finetune_trainer.errors import StageFailure
from finetune_trainer.prepare.prompts import encode_prompts


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


def asking(*prompts, new_tokens=8):
    return Evaluation(sample_prompts=list(prompts), predictions={"max_new_tokens": new_tokens})


def test_a_chat_prompt_is_rendered_with_the_beginning_of_the_answer(tokenizer):
    first, second = encode_prompts(tokenizer, "messages", asking("Hi?", "Where is it?"), max_positions=None)
    assert tokenizer.decode(first) == "<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(second) == "<|im_start|>user\nWhere is it?<|im_end|>\n<|im_start|>assistant\n"


def test_a_prompt_for_a_completion_stands_as_it_is(tokenizer):
    [prompt] = encode_prompts(tokenizer, "promptCompletion", asking("The invoice is"), max_positions=None)
    assert tokenizer.decode(prompt) == "The invoice is"


def test_running_text_is_gone_on_with(tokenizer):
    [prompt] = encode_prompts(tokenizer, "text", asking("The quick brown"), max_positions=None)
    assert tokenizer.decode(prompt) == "The quick brown"


def test_without_prompts_nothing_is_encoded():
    assert encode_prompts(None, "messages", Evaluation(), max_positions=None) == []


def test_prompt_and_answer_must_fit_the_model(tokenizer):
    prompts = asking("Hi?", "Where " * 20, new_tokens=20)
    assert len(encode_prompts(tokenizer, "messages", prompts, max_positions=1024)) == 2
    with pytest.raises(StageFailure, match=r"samplePrompts\[1\]: .* the model has 64 positions") as caught:
        encode_prompts(tokenizer, "messages", prompts, max_positions=64)
    assert caught.value.code is ExitCode.INVALID
