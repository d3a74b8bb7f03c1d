"""`mtllm-ds prepare sdrrl`: a chat model's own answers, in other languages, as dialogues to learn from."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtllm_ds.command_line import Subcommands, add_precision, positive_float, positive_int, temperature
from mtllm_ds.commands.prepare.sides import chat_template_of
from mtllm_ds.config.shipped import shipped_place
from mtllm_ds.errors import UserError

if TYPE_CHECKING:
    from mtllm_ds.transfer_sets.sdrrl.settings import SdrrlSettings

_OF_LANGUAGE = re.compile(r"([a-z]{3}_[A-Z][a-z]{3})=(.+)", re.DOTALL)


_DEFAULTS = {
    "instruction_field": "prompt", "instruction_temperature": 0.9, "instruction_top_p": 0.95, "instruction_tokens": 96,
    "max_new_tokens": 256, "temperature": 0.0, "keep_sentences": False, "stop": None, "top_p": 1.0, "batch_size": 16,
    "code_switch_ratio": 0.2, "teacher_sees": "question",
}  # fmt: skip
_OF_OWN_ANSWERS = ("max_new_tokens", "temperature", "keep_sentences", "stop", "top_p", "batch_size")


def add_sdrrl(commands: Subcommands) -> None:
    """`sdrrl` among the subcommands."""
    sdrrl = commands.add_parser(
        "sdrrl",
        help="a chat model's own answers, translated, as dialogues, on any number of ranks; a killed one resumes",
    )
    sdrrl.set_defaults(run=run)
    add = sdrrl.add_argument
    add("--llm", required=True, help="the chat model: folder, hub name or assets/llm")
    add("--llm-revision")
    add("--trust-remote-code", action="store_true", help="run the code that it may bring")
    add("--chat-template", type=Path, metavar="FILE", help="Jinja template (default: its tokenizer's own)")
    add("--system-prompt", metavar="TEXT", help="system message (default: the template's)")
    add_precision(sdrrl, "fp32")
    add("--output", type=Path, required=True, metavar="DIR")
    add("--seed", type=int, default=0)
    _add_instructions(sdrrl.add_argument_group("instructions (English)"))
    _add_answers(sdrrl.add_argument_group("answers"))
    _add_translation(sdrrl.add_argument_group("translation"))
    _add_pairs(sdrrl.add_argument_group("pairs"))


def _add_instructions(group: Any) -> None:
    add = group.add_argument
    add("--instructions", nargs="+", default=(), metavar="FILE", help="JSONL, TSV or Parquet")
    add("--instruction-field", help="field that holds them (default %(default)s)")
    add("--num-instructions", type=positive_int, metavar="N", help="the first N (default: all)")
    add(
        "--gold-field", metavar="FIELD",
        help="field of answers that stand in place of the model's own (translate-then-tune, to compare with)",
    )  # fmt: skip
    add("--self-instructions", type=positive_int, metavar="N", help="the chat model writes N itself, as a user")
    for_own = "of --self-instructions (default %(default)s)"
    add("--instruction-temperature", type=positive_float, help=for_own)
    add("--instruction-top-p", type=_share, help=for_own)
    add("--instruction-tokens", type=positive_int, help=f"most tokens of one, {for_own}")
    add(
        "--exclude", metavar="FILE", help="list of hashes of texts that must not enter (test sets), plain or compressed"
    )
    group.set_defaults(**{name: value for name, value in _DEFAULTS.items() if name.startswith("instruction")})


def _add_answers(group: Any) -> None:
    add = group.add_argument
    add(
        "--max-new-tokens", type=positive_int,
        help="most tokens of an answer; a longer one is cut off, and rejected (default %(default)s)",
    )  # fmt: skip
    add("--temperature", type=temperature, help="0 is greedy (default)")
    add("--top-p", type=_share, help="the fewest tokens that reach this probability (default %(default)s)")
    add("--keep-sentences", action="store_true", help="of an answer that was cut off, keep the whole sentences")
    add("--stop", metavar="TEXT", help="an answer ends here too, as where a model was not tuned to end its turn")
    add("--batch-size", type=positive_int, help="texts written at once (default %(default)s)")
    add(
        "--check-language", action=argparse.BooleanOptionalAction, default=True,
        help="reject what is not English, by py3langid (default)",
    )  # fmt: skip
    group.set_defaults(**{name: _DEFAULTS[name] for name in _OF_OWN_ANSWERS})


def _add_translation(group: Any) -> None:
    add = group.add_argument
    add(
        "--translator", nargs="+", required=True, metavar="[CODE=]TRANSLATOR",
        help="by language: command:'PROGRAM ...' (sentences in, a line each; such as spa_Latn=command:'apertium eng-spa') or an "
        "MT model; without CODE it serves all --languages that have none",
    )  # fmt: skip
    add("--languages", nargs="+", default=(), metavar="CODE", help="languages of a translator without CODE")
    add("--beams", type=positive_int, default=1, help="of MT models; 1 is greedy (default)")
    add(
        "--time-out", type=positive_float, default=600.0, metavar="SECONDS",
        help="of a command, for 256 sentences (default %(default)s)",
    )  # fmt: skip


def _add_pairs(group: Any) -> None:
    add = group.add_argument
    add(
        "--pairs", nargs="+", metavar="TYPE=WEIGHT",
        help="q_en_a_en, q_t_a_t, q_t_a_en, q_en_a_t, code_switched, partially_translated, completion, translation "
        "(default: q_t_a_t=4 q_en_a_en=2 q_t_a_en=1 q_en_a_t=1 partially_translated=1)",
    )  # fmt: skip
    add("--num-pairs", type=positive_int, metavar="N", help="all together (default: as many as the rarest type allows)")
    add("--code-switch-ratio", type=float, help="share of known words replaced (default %(default)s)")
    add(
        "--lexicon", nargs="+", default=(), metavar="CODE=LEXICON",
        help="of code_switched: FILE.tsv, translator (asked word by word), freedict:eng-spa, or aligned (parallel text, eflomal)",
    )  # fmt: skip
    add(
        "--parallel", nargs="+", default=(), metavar="CODE=FILE",
        help="of completion and translation: TSV (English, tab, text) or JSONL (text_en, text)",
    )  # fmt: skip
    add(
        "--teacher-sees", choices=("question", "language", "answer"),
        help="in English: the question (default); with the language to answer in; with the pair's response beside it",
    )  # fmt: skip
    group.set_defaults(**{name: _DEFAULTS[name] for name in ("code_switch_ratio", "teacher_sees")})


def run(options: argparse.Namespace) -> None:
    from mtllm_ds.cluster.agree import from_main, together
    from mtllm_ds.cluster.launch import join_cluster_if_launched, leave_cluster
    from mtllm_ds.cluster.precision import reading_dtype
    from mtllm_ds.transfer_sets.sdrrl.display import SdrrlDisplay, print_report
    from mtllm_ds.transfer_sets.sdrrl.pipeline import Pipeline

    cluster = join_cluster_if_launched()
    dtype = from_main(lambda: reading_dtype(options.precision, cluster.device), cluster.device)
    settings = together(lambda: _settings(options, dtype), cluster.device)
    output = options.output.expanduser()
    with SdrrlDisplay(quiet=not cluster.is_main) as display:
        report = Pipeline(settings, output, cluster, display.stage).run()
    if cluster.is_main:
        print_report(report)
        print(f"{output}/dialogues.jsonl: for `prepare dialogues`; `prepare show {output}` prints histories of samples")
    leave_cluster()


def _settings(options: argparse.Namespace, dtype: Any) -> SdrrlSettings:
    from mtllm_ds.data.text.chat import ChatSettings
    from mtllm_ds.transfer_sets.sdrrl.chat_model import Generation
    from mtllm_ds.transfer_sets.sdrrl.instructions import SelfInstructions
    from mtllm_ds.transfer_sets.sdrrl.pairs import DEFAULT_WEIGHTS, PairSettings
    from mtllm_ds.transfer_sets.sdrrl.settings import SdrrlSettings
    from mtllm_ds.transfer_sets.translation.mt_model import Decoding

    _refuse_without_effect(options)
    own = None
    if options.self_instructions is not None:
        generation = Generation(
            max_new_tokens=options.instruction_tokens,
            temperature=options.instruction_temperature,
            top_p=options.instruction_top_p,
        )
        own = SelfInstructions(count=options.self_instructions, generation=generation, batch_size=options.batch_size)
    return SdrrlSettings(
        llm=options.llm,
        revision=options.llm_revision,
        trust_remote_code=options.trust_remote_code,
        chat=ChatSettings(template=chat_template_of(options.chat_template), system_prompt=options.system_prompt),
        dtype=dtype,
        instructions=tuple(str(shipped_place(path)) for path in options.instructions),
        instruction_field=options.instruction_field,
        num_instructions=options.num_instructions,
        self_instructions=own,
        gold_field=options.gold_field,
        exclusion_list=options.exclude,
        check_language=options.check_language,
        generation=Generation(
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            top_p=options.top_p,
            stop=options.stop,
        ),
        batch_size=options.batch_size,
        keep_sentences=options.keep_sentences,
        translators=_translators(options),
        decoding=Decoding(num_beams=options.beams),
        time_out_seconds=options.time_out,
        lexicons={code: given for code, (given,) in _by_language("--lexicon", options.lexicon, most=1).items()},
        parallel={
            code: tuple(str(shipped_place(path)) for path in paths)
            for code, paths in _by_language("--parallel", options.parallel).items()
        },
        pairs=PairSettings(
            weights=_weights(options.pairs) if options.pairs else DEFAULT_WEIGHTS,
            total=options.num_pairs,
            code_switch_ratio=options.code_switch_ratio,
            teacher_sees=options.teacher_sees,
            seed=options.seed,
        ),
        seed=options.seed,
    )


def _refuse_without_effect(options: argparse.Namespace) -> None:
    """Raises `UserError` for an option that nothing reads."""
    from mtllm_ds.transfer_sets.sdrrl.pairs import TEXT_TYPES

    of_own = ("instruction_temperature", "instruction_top_p", "instruction_tokens")
    is_read = dict.fromkeys(of_own, options.self_instructions is not None)
    is_read |= {name: bool(options.instructions) for name in ("instruction_field", "num_instructions")}
    is_read["top_p"] = options.temperature > 0
    is_read["code_switch_ratio"] = any(text.startswith("code_switched=") for text in options.pairs or ())
    asked = [name for name, weight in _weights(options.pairs or ()).items() if weight > 0]
    is_read["teacher_sees"] = not asked or any(name not in TEXT_TYPES for name in asked)
    needs = dict.fromkeys(of_own, "--self-instructions") | {
        "teacher_sees": "pairs of questions, such as --pairs q_t_a_t=4"
    }
    needs |= {"top_p": "--temperature", "code_switch_ratio": "--pairs code_switched="}
    if options.gold_field is not None:
        is_read |= dict.fromkeys(_OF_OWN_ANSWERS, False)
        needs |= dict.fromkeys(_OF_OWN_ANSWERS, "answers of the model's own, which --gold-field replaces")
    for name, read in is_read.items():
        if not read and getattr(options, name) != _DEFAULTS.get(name):
            option = f"--{name.replace('_', '-')}"
            raise UserError(
                f"{option}={getattr(options, name)}: has no effect without {needs.get(name, '--instructions')}; remove it"
            )


def _translators(options: argparse.Namespace) -> dict[str, str]:
    from mtllm_ds.languages import check_language

    named = [given for given in options.translator if _OF_LANGUAGE.fullmatch(given)]
    found = {code: given for code, (given,) in _by_language("--translator", named, most=1).items()}
    for_all = [given for given in options.translator if given not in named]
    others = [code for code in map(check_language, options.languages) if code not in found]
    if len(for_all) > 1:
        raise UserError(f"--translator {for_all[1]}: only one can do without a language; write CODE={for_all[1]}")
    if others and not for_all:
        raise UserError(
            f"--languages={' '.join(others)}: no translator; give --translator {others[0]}=..., or one without CODE"
        )
    if for_all and not others:
        raise UserError(
            f"--translator={for_all[0]}: of no language; write CODE={for_all[0]}, or add --languages CODE ..."
        )
    return found | {code: given for given in for_all for code in others}


def _by_language(option: str, given: Sequence[str], most: int | None = None) -> dict[str, tuple[str, ...]]:
    """CODE=VALUE, by code, in the order of the command line."""
    from mtllm_ds.languages import check_language

    found: dict[str, tuple[str, ...]] = {}
    for text in given:
        named = _OF_LANGUAGE.fullmatch(text)
        if named is None:
            raise UserError(f"{option} {text}: names no language; write CODE=..., such as spa_Latn={text}")
        code = check_language(named[1])
        found[code] = (*found.get(code, ()), named[2])
        if most is not None and len(found[code]) > most:
            raise UserError(f"{option} {text}: {code} has one already; give each language once")
    return found


def _weights(given: Sequence[str]) -> dict[str, float]:
    weights: dict[str, float] = {}
    for text in given:
        name, _, number = text.partition("=")
        try:
            weights[name] = float(number)
        except ValueError as error:
            raise UserError(f"--pairs {text}: no weight; write TYPE=WEIGHT, such as q_t_a_t=4") from error
    return weights


def _share(text: str) -> float:
    number = positive_float(text)
    if number > 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no share from 0 to 1")
    return number
