"""`mtllm-ds generate MODEL --input FILE --output FILE.jsonl`: what a model writes after prompts, on any number of ranks.

mtllm-ds generate my_writer --input prompts.txt --language deu_Latn --output answers.jsonl
echo "Wie drucke ich eine Seite?" | mtllm-ds generate my_writer --input - --language deu_Latn --output answer.jsonl
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtllm_ds.command_line import Parser, natural_int, positive_float, positive_int, temperature
from mtllm_ds.commands.prepare.sides import chat_template_of
from mtllm_ds.commands.writers import HELP, add_model_options, add_writing_options, load_writer
from mtllm_ds.errors import UserError

if TYPE_CHECKING:
    from mtllm_ds.data.text.prompt_records import PromptRecord

_OPTIONS = ("top_p", "top_k", "min_p", "num_beams", "repetition_penalty")
"""Those that are given to transformers' `generate` by their own names"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="mtllm-ds generate",
        description="Write a response to each prompt of a file. A killed run continues when it is started again.",
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help=HELP)
    add(
        "--input", required=True, metavar="FILE",
        help="prompts: .txt with a text per line, or .jsonl of {prompt or messages, and id, language} (.gz .xz .bz2 .zst); - is "
        "standard input, texts or records",
    )  # fmt: skip
    add("--language", metavar="CODE", help="FLORES-200 code of prompts that name none")
    add("--output", type=Path, required=True, metavar="FILE.jsonl", help="all ranks must see it")
    add("--plain-llm", action="store_true", help="the LLM without what was trained writes, and reads by itself")
    add(
        "--chat", action="store_true", help="texts are what a user says to a chat model (known of trained on dialogues)"
    )
    add("--chat-template", type=Path, metavar="FILE", help="Jinja template (default: learnt, or the tokenizer's own)")
    add_model_options(add)
    add_writing_options(parser, batch_size=8)
    _add_options(
        parser.add_argument_group("what is written", "left out, each is as in the LLM's generation_config.json")
    )
    return parser.parse_args(arguments)


def _add_options(group: Any) -> None:
    add = group.add_argument
    add(
        "--max-new-tokens", type=positive_int, help="most tokens of a response (default 256, or what there is room for)"
    )
    add("--temperature", type=temperature, metavar="T", help="0 is greedy; above, tokens are drawn")
    add("--top-p", type=positive_float, metavar="P", help="draw from the fewest tokens that reach this probability")
    add("--top-k", type=positive_int, metavar="K", help="draw from so many tokens")
    add("--min-p", type=positive_float, metavar="P", help="draw from tokens this likely, relative to the likeliest")
    add("--num-beams", type=positive_int, metavar="N", help="beam search")
    add("--repetition-penalty", type=positive_float, metavar="X", help="above 1: against repeating itself")
    add("--stop", nargs="+", metavar="TEXT", help="a response ends at these too, and with them")
    add("--option", nargs="+", default=[], metavar="NAME=VALUE", help="any other of transformers' generate")
    add("--seed", type=natural_int, default=0, help="of what is drawn (default %(default)s)")


def main(arguments: Sequence[str]) -> int:
    """Write the file."""
    options = parse(arguments)
    if options.output.suffix != ".jsonl":
        raise UserError(f"--output={options.output}: a file of JSON lines is written; give a name that ends in .jsonl")
    _require_input_kept(options)
    given = _given(options)
    from mtllm_ds.cluster.agree import from_main, together
    from mtllm_ds.cluster.launch import join_cluster_if_launched, leave_cluster
    from mtllm_ds.cluster.precision import reading_dtype
    from mtllm_ds.data.writing.display import CountDisplay
    from mtllm_ds.data.writing.output import check_output
    from mtllm_ds.inference.prompt_files import PromptFile
    from mtllm_ds.transfer_sets.sdrrl.stages import Stage

    cluster = join_cluster_if_launched()
    dtype = from_main(lambda: reading_dtype(options.precision, cluster.device), cluster.device)
    # Ranks of a launcher share one standard input, of which each would get a part.
    records, template = from_main(lambda: _read(options), cluster.device)

    def begin() -> tuple[PromptFile, Stage]:
        check_output(options.output.parent)
        model, identity = load_writer(options.model, cluster.device, dtype, options.encoder, options.llm)
        file = PromptFile(
            model.speaker(plain=options.plain_llm), records, seed=options.seed, max_new_tokens=options.max_new_tokens,
            is_chat=options.chat, template=template, options=given,
        )  # fmt: skip
        made_with = identity | {
            "plain_llm": options.plain_llm, "quantization": model.quantization,
            "dtype": str(dtype).removeprefix("torch."), "prompts": _digest(records),
            "chat": options.chat, "chat_template": template, "seed": options.seed, "max_new_tokens": file.how.max_new_tokens,
            "options": given,
        }  # fmt: skip
        return file, Stage(options.output.parent, options.output.stem, made_with)

    file, stage = together(begin, cluster.device)
    if not stage.is_done:
        with CountDisplay("writing", "prompts answered", quiet=not cluster.is_main) as display:
            file.write(stage, cluster, batch_size=options.batch_size, progress=display.advance)
    if cluster.is_main:
        print(f"{stage.counts['written']} responses, {stage.counts['ended']} came to an end: {stage.path}")
    leave_cluster()
    return 0


def _require_input_kept(options: argparse.Namespace) -> None:
    """The prompts are none of the files that are written."""
    written = (options.output, options.output.with_suffix(".json"))
    if options.input != "-" and Path(options.input).resolve() in [path.resolve() for path in written]:
        raise UserError(f"--output={options.output}: {options.input} would be overwritten; give another name")


def _read(options: argparse.Namespace) -> tuple[list[PromptRecord], str | None]:
    """Prompts, and the chat template if one is named."""
    from mtllm_ds.data.text.prompt_records import read_prompts, require_unique

    records = read_prompts(options.input, options.language)
    require_unique((record.id, record.place) for record in records)
    return records, chat_template_of(options.chat_template)


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """Options of transformers' `generate`, as the command line has them."""
    given = {name: getattr(options, name) for name in _OPTIONS if getattr(options, name) is not None}
    if options.temperature is not None:
        given |= (
            {"do_sample": True, "temperature": options.temperature} if options.temperature else {"do_sample": False}
        )
    if options.stop:
        given["stop_strings"] = options.stop
    for text in options.option:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--option {text}: no value; write NAME=VALUE, such as no_repeat_ngram_size=3")
        if name in given:
            raise UserError(f"--option {text}: '{name}' is given by an option of its own; leave one of them out")
        given[name] = _value(value)
    return given


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _digest(records: Sequence[PromptRecord]) -> str:
    """Of all that decides what is written of them."""
    rows: list[Mapping[str, Any]] = [{"id": r.id, "language": r.language, "prompt": r.prompt} for r in records]
    return f"sha256:{hashlib.sha256(json.dumps(rows).encode()).hexdigest()}"
