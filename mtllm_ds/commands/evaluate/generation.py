"""`mtllm-ds evaluate generation`: a model that writes, beside its LLM before training, on held-out dialogues."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtllm_ds.command_line import Subcommands, positive_int
from mtllm_ds.commands.text_inputs import named_input
from mtllm_ds.commands.writers import HELP, add_model_options, add_writing_options, load_writer
from mtllm_ds.errors import UserError

if TYPE_CHECKING:
    import torch

    from mtllm_ds.cluster.launch import Cluster
    from mtllm_ds.evaluation.generation.evaluation import Encode, GenerationEvaluation
    from mtllm_ds.inference import MTLLM
    from mtllm_ds.models.speaker import Speaker

PROMPT = "prompt"


def add_generation(commands: Subcommands) -> None:
    """`generation` among the subcommands."""
    generation = commands.add_parser(
        "generation",
        help="what responses are worth to a model that writes, and what its own are like, beside its LLM before training",
    )
    generation.set_defaults(run=run)
    add = generation.add_argument
    add("--model", required=True, help=HELP)
    add("--untouched", metavar="LLM", help="the LLM before training (default: the model's own without its LoRA)")
    add(
        "--input", nargs="+", required=True, metavar="FILE",
        help="held-out dialogues, JSONL (.gz .xz .bz2 .zst): {language, prompt or messages, teacher_prompt or teacher_messages, "
        "response, reference, bare_prompt or bare_messages, id, group}; or CODE=FILE",
    )  # fmt: skip
    add("--limit", type=positive_int, metavar="N", help="only the first N prompts of each language")
    add(
        "--chat", action="store_true", help="texts are what a user says to a chat model (known of trained on dialogues)"
    )
    add(
        "--answers-in", metavar="CODE",
        help="language in which answers are expected, or `prompt` for the prompt's (default: English of a stack, else prompt)",
    )  # fmt: skip
    add("--max-new-tokens", type=positive_int, default=64, help="most tokens of an answer (default %(default)s)")
    add(
        "--check-language", action=argparse.BooleanOptionalAction, default=True,
        help="tell the language of answers, by py3langid (default)",
    )  # fmt: skip
    add(
        "--sentence-encoder", metavar="NAME",
        help="tells how near answers are to the teacher's: folder or hub name of an encoder (default: a stack's own; else none)",
    )  # fmt: skip
    add("--encoder-prefix", default="", metavar="TEXT", help="put before what it reads, such as 'query: ' of E5")
    add("--examples", type=positive_int, default=20, help="answers shown side by side (default %(default)s)")
    add_model_options(add)
    add_writing_options(generation, batch_size=16)
    add("--output", type=Path, required=True, metavar="DIR", help="all ranks must see it; one that is there goes on")


def run(options: argparse.Namespace) -> None:
    from mtllm_ds.data.writing.output import check_output
    from mtllm_ds.evaluation.generation.heldout import as_chat, read_heldout
    from mtllm_ds.languages import check_language

    if options.answers_in not in (None, PROMPT):
        options.answers_in = check_language(options.answers_in)
    from mtllm_ds.cluster.agree import from_main, together
    from mtllm_ds.cluster.launch import join_cluster_if_launched, leave_cluster
    from mtllm_ds.cluster.patience import patiently
    from mtllm_ds.cluster.precision import reading_dtype
    from mtllm_ds.data.writing.display import CountDisplay
    from mtllm_ds.evaluation.generation.found import evaluate_languages, load_found
    from mtllm_ds.evaluation.report.of_generation import write_generation_report

    cluster = join_cluster_if_launched()
    # One rank reads: machines may see other files, and a mistake must not leave the others waiting.
    items = from_main(lambda: read_heldout(map(named_input, options.input), options.limit), cluster.device)
    if options.chat:
        items = {code: [as_chat(item) for item in own] for code, own in items.items()}
    together(lambda: check_output(options.output), cluster.device)
    dtype = from_main(lambda: reading_dtype(options.precision, cluster.device), cluster.device)
    evaluation, made_with = together(lambda: _evaluation(options, list(items), cluster.device, dtype), cluster.device)
    own = dict(list(items.items())[cluster.rank :: cluster.world_size])
    with CountDisplay("evaluating", "languages evaluated", quiet=not cluster.is_main) as display:
        patiently(  # a rank may have a language more, or longer answers
            lambda: evaluate_languages(own, options.output / "found", made_with, evaluation, display.advance),
            cluster.device,
        )

    def report() -> None:
        found = load_found(options.output / "found", list(items))
        title = f"What {Path(options.model).name} writes"
        write_generation_report(found, options.output, title, _facts(made_with, cluster), options.examples)
        print(f"report: {options.output / 'report.html'}")

    together(lambda: report() if cluster.is_main else None, cluster.device)
    leave_cluster()


def _evaluation(
    options: argparse.Namespace, languages: Sequence[str], device: torch.device, dtype: torch.dtype
) -> tuple[GenerationEvaluation, dict[str, Any]]:
    """The evaluation, and everything but the prompts that decides what it finds."""
    from mtllm_ds.evaluation.generation.evaluation import GenerationEvaluation, HowAnswered
    from mtllm_ds.languages import ENGLISH
    from mtllm_ds.models.stacked import StackedModel
    from mtllm_ds.transfer_sets.sdrrl.filters import LanguageCheck

    check = LanguageCheck() if options.check_language else None
    model, identity = load_writer(options.model, device, dtype, options.encoder, options.llm)
    answers_in = options.answers_in or (ENGLISH if isinstance(model.reader, StackedModel) else PROMPT)
    expected = languages if answers_in == PROMPT else [answers_in]
    speaker = model.speaker(plain=False)
    untouched, teacher = _untouched(options, model, device, dtype)
    how = HowAnswered(
        max_new_tokens=options.max_new_tokens, answers_in=None if answers_in == PROMPT else answers_in,
        batch_size=options.batch_size, check=check, encode=_encode(options, model, expected, dtype),
    )  # fmt: skip
    made_with = identity | {
        "untouched": teacher, "dtype": str(dtype).removeprefix("torch."), "answers_in": answers_in,
        "max_new_tokens": options.max_new_tokens, "check_language": options.check_language,
        "sentence_encoder": options.sentence_encoder,
        "sentence_encoder_weights": _weights_of(options.sentence_encoder), "encoder_prefix": options.encoder_prefix,
    }  # fmt: skip
    return GenerationEvaluation(speaker, untouched, how), made_with


def _weights_of(encoder: str | None) -> str | None:
    """Its fingerprint: a folder may hold other weights by the time that an evaluation goes on."""
    from mtllm_ds.config.names import resolve_model_name
    from mtllm_ds.models.loading import weights_fingerprint

    return None if encoder is None else weights_fingerprint(resolve_model_name(encoder), None)


def _untouched(
    options: argparse.Namespace, model: MTLLM, device: torch.device, dtype: torch.dtype
) -> tuple[Speaker, str]:
    """Who the model is compared with, and what identifies it."""
    if options.untouched is not None:
        teacher, identity = load_writer(options.untouched, device, dtype)
        return teacher.speaker(plain=False), f"{identity['model']}, {identity['weights']}"
    if not model.holds_plain_llm:
        raise UserError(
            "--untouched is missing: this model's LLM has no LoRA that could be left out; name the LLM that it was trained from"
        )
    return model.speaker(
        plain=True
    ), f"the same without LoRA{'' if model.quantization is None else f', in {model.quantization}'}"


def _encode(options: argparse.Namespace, model: MTLLM, languages: Sequence[str], dtype: torch.dtype) -> Encode | None:
    """How near texts are is told by the encoder that is named, or by a stack's own."""
    from mtllm_ds.inference import MTLLM
    from mtllm_ds.models.stacked import StackedModel

    prefix = options.encoder_prefix
    if options.sentence_encoder is None and not isinstance(model.reader, StackedModel):
        if prefix:
            raise UserError(f"--encoder-prefix={prefix}: has no effect without --sentence-encoder; remove it")
        return None
    encoder, encode = model, model.encode_with_encoder
    if options.sentence_encoder is not None:
        encoder = MTLLM.from_base("encoder", options.sentence_encoder, device=model.device, dtype=dtype)
        encode = encoder.encode
    unknown = [code for code in languages if encoder.languages and code not in encoder.languages]
    if unknown:
        raise UserError(
            f"--sentence-encoder={options.sentence_encoder}: has no tag of {unknown[0]}; name another encoder"
        )
    return lambda texts, language: encode([prefix + text for text in texts], language, options.batch_size).numpy()


def _facts(made_with: Mapping[str, Any], cluster: Cluster) -> dict[str, str]:
    """What the report says about how it was made."""
    import torch
    import transformers

    import mtllm_ds

    versions = f"mtllm-ds {mtllm_ds.__version__}, torch {torch.__version__}, transformers {transformers.__version__}"
    shown = {name.replace("_", " "): str(value) for name, value in made_with.items() if value not in (None, "")}
    return shown | {"ranks": f"{cluster.world_size} on {cluster.device.type}", "versions": versions}
