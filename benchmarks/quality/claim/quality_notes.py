"""What a reader must know of each task's runs: what was fixed when, what was amended, what the base models have read."""

HELP_LEAKS = (
    "Leak test: what gives away a test item is left out of all text that is trained on here. The encoder of the MT model in "
    "assets/ and the tiny Llama were trained before the test compared 8-grams: of their text, 8 of 26,002 English segments and "
    "3 to 17 translations a language shared half of a test item's 8-grams."
)
HELP_AMENDMENTS = (
    "Amended on 2026-11-20, after a first run had opened the test files (200 steps of stage 1, 120 a tuning; stage 2 minus the "
    "best translate-test, copy-masked, -0.3 points, -4.4 to +3.7; gate failed: the backbone at .684 English accuracy, TF-IDF at "
    ".705): (1) copy-masking cuts copies out and leaves the rest as written; before, it lower-cased, and tore words at accents and "
    "at Khmer vowel signs, which was seen on the development languages German and Khmer; (2) 500 and 160 steps, because held-out "
    "FVU and English validation accuracy were still improving; (3) more candidates: at_teacher, at_teacher_centring, logits. Tried "
    "by hand on the development languages with the first run's stage 1, seed 0, copy-masked: plain .493, centring .513, at_teacher "
    ".477, logits and centring .501, these and at_teacher .493, at_teacher on stage-1 text instead of the task's .457."
)
DDTP_BEFOREHAND = (
    "Fixed on 2026-11-25, before any of our models had read a test item of ddtp_topics: languages (those for development, and the "
    "three others with the most translated text), budget, candidates (the plain method and the one that led on the help text) and "
    "the rules, which are those of lohelp_modules. Samples have 128 tokens instead of 96, at which the MT tokenizer would have cut "
    "a sixth of the stack's text while translate-test reads all of it."
)
DDTP_BASES = (
    "The MT model goes on from assets/mt (help text) with package descriptions and a vocabulary of its own. Packages of a test "
    "item's group, and those whose description holds half of a test item's 8-grams, are in no training text. That second filter "
    "came in when the MT model had spent two thirds of its training: until then it read sentences of such descriptions one by one "
    "(a sample: 11 of 902 Japanese, 1 of 969 German and none of 1,000 Danish test items had half of their English 8-grams there)."
)
PARALLEL_BEFOREHAND = (
    "The fourth look at the claim (two runs on the help text, one on package descriptions; none confirmed it), hence the level "
    ".0125. Fixed on 2026-11-26, before any trained system had answered a test item in the languages that confirm (languages "
    "and candidates before the MT model had translated them, the level and the text of stage 1 just after that): the four of the "
    "help text that no run had opened (Spanish, Turkish, Vietnamese, Chinese); development languages German and Khmer; "
    "candidates plain, at_teacher and parallel_at_teacher (the first two known from before, the third new); rules otherwise as "
    "ever. The test items are those of the earlier runs on the help text in other languages: the same 104 source groups, so this "
    "is no independent sample of texts. Copy-masking and at_teacher were settled there on German, Khmer and Japanese, see the "
    "notes of that run."
)
PARALLEL_TEXT = (
    "The MT model goes on from assets/mt for one CPU hour with the parallel text of these six languages and a vocabulary of its "
    "own. Stage 1 on parallel text reads a part of that text, so the stack and translate-test have learnt from the same "
    "translations. Translations of the task's training and validation items, and of what holds half of one's 8-grams, are left "
    "out of stage 1 (the MT model has read them): no system is tuned on the task in another language than English, but for "
    "translate-train. It is no longer the published method, whose stage 1 is English only. parallel_at_teacher differs from "
    "at_teacher by its text and by half as many steps again; long_at_teacher, an ablation, has the steps alone."
)
NOTES = {
    "lohelp_modules": (HELP_LEAKS, HELP_AMENDMENTS),
    "ddtp_topics": (DDTP_BASES,),
    "cpu-ddtp_topics": (DDTP_BEFOREHAND, DDTP_BASES),
    "parallel": (PARALLEL_BEFOREHAND, PARALLEL_TEXT, HELP_LEAKS),
}
"""Run (`place_of`), or else task, -> notes of its report"""
