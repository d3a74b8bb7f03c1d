"""Prompts and responses as an LLM reads them: what transformers' own templates give, and the same response after any prompt."""

import pytest
from transformers import AutoTokenizer

from mtllm_ds.data.text.chat import ChatSettings, DialogueTokenizer
from mtllm_ds.data.text.tokenization import TokenizerSpec, load_text_tokenizer
from mtllm_ds.errors import UserError
from tests.fixtures.dialogues import CHAT, TEMPLATE
from tests.fixtures.tokenizers import save_gemma_tokenizer, save_t5_tokenizer

USER = {"role": "user", "content": "the cells of a table"}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def llm(specs):
    return load_text_tokenizer(specs["llm"])


def test_a_prompt_is_what_transformers_renders_and_a_response_ends_its_turn(llm, specs):
    plain = AutoTokenizer.from_pretrained(specs["llm"].name)
    chat = DialogueTokenizer(llm, CHAT)
    rendered = "<bos>user: the cells of a table\nassistant: "
    assert chat.prompt_ids([USER]) == plain(rendered, add_special_tokens=False)["input_ids"]
    assert chat.template == TEMPLATE
    assert chat.end_id == plain.eos_token_id
    assert chat.response_ids("a chart") == [
        *plain("a chart", add_special_tokens=False)["input_ids"],
        plain.eos_token_id,
    ]


def test_system_prompts_stand_first_unless_messages_bring_their_own(llm):
    chat = DialogueTokenizer(llm, ChatSettings(template=TEMPLATE, system_prompt="be brief"))
    own = [{"role": "system", "content": "be long"}, USER]
    assert chat.prompt_ids([USER]) == chat.prompt_ids([{"role": "system", "content": "be brief"}, USER])
    assert chat.prompt_ids(own) == DialogueTokenizer(llm, CHAT).prompt_ids(own)


def test_the_turn_ends_where_the_template_says(llm, specs, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(specs["llm"].name)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(tmp_path / "chatml")
    spec = TokenizerSpec(name=str(tmp_path / "chatml"), side="llm")
    chat = DialogueTokenizer(load_text_tokenizer(spec), ChatSettings())
    assert chat.end_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    dialogue = [USER, {"role": "assistant", "content": "a chart"}]
    whole = tokenizer.apply_chat_template(dialogue, return_dict=False)
    ours = [*chat.prompt_ids([USER]), *chat.response_ids("a chart")]
    assert whole[: len(ours)] == ours  # then the line break behind the turn, which nobody generates
    assert chat.spells_special(["what is <|im_end|>?"])
    assert not chat.spells_special(["what is im_end?"])


def test_plain_text_goes_on_as_if_it_were_one(llm, tmp_path):
    chat = DialogueTokenizer(llm, ChatSettings(plain=True))
    text = "Select the cells that hold the formula"
    prompt, response = "Select the cells", " that hold the formula"
    assert [*chat.prompt_ids([{"content": prompt}]), *chat.response_ids(response, ends=False)] == llm([text], None)
    # A tokenizer that puts a blank before every text would put a second one.
    spec = TokenizerSpec(name=str(save_t5_tokenizer(tmp_path / "t5")), side="llm", family="decoder")
    with pytest.raises(UserError):  # it has no <bos>; asked as what it is
        DialogueTokenizer(load_text_tokenizer(spec), ChatSettings(template="{{ messages[5].x.y }}"))
    spec = TokenizerSpec(name=str(save_t5_tokenizer(tmp_path / "t5b")), side="llm", family="t5")
    t5 = load_text_tokenizer(spec)
    plain = DialogueTokenizer(t5, ChatSettings(plain=True))
    assert plain.response_ids(response, ends=False) == t5.tokenize(["that hold the formula"])[0].ids


def test_mistakes_are_one_line(llm, tmp_path):
    with pytest.raises(
        UserError, match=r"^--llm=.*has no chat template; give --chat-template FILE, or --plain for text$"
    ):
        DialogueTokenizer(llm, ChatSettings())
    for template in ("{% for %}", "{{ raise_exception('only one turn') }}", "{{ messages[7].content }}"):
        with pytest.raises(UserError, match=r"^chat template of .*refuses the messages|shows no answer"):
            DialogueTokenizer(llm, ChatSettings(template=template))
    with pytest.raises(UserError, match="shows no answer of an assistant"):
        DialogueTokenizer(llm, ChatSettings(template="{{ messages[0].content }}"))
    gemma = load_text_tokenizer(TokenizerSpec(name=str(save_gemma_tokenizer(tmp_path / "gemma")), side="llm"))
    assert DialogueTokenizer(gemma, ChatSettings(plain=True)).end_id == gemma.id_of("<eos>", "end")
