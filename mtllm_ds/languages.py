"""FLORES-200 language codes, looked up strictly: an unknown code raises and names the nearest one.

A code is an ISO 639-3 language and an ISO 15924 script, `deu_Latn`. The 204 codes are those of the FLORES-200 benchmark
(NLLB Team, 2022, arXiv 2207.04672). A tokenizer may know fewer; whether a *model* knows a code is the tokenizer's matter
(`mtllm_ds.data.text.tokenization`).
"""

from collections.abc import Iterable

from mtllm_ds.errors import UserError

ENGLISH = "eng_Latn"
"""What the LLM reads; the pivot of everything here."""

FLORES_200: tuple[str, ...] = tuple(
    """
    ace_Arab ace_Latn acm_Arab acq_Arab aeb_Arab afr_Latn ajp_Arab aka_Latn als_Latn amh_Ethi apc_Arab arb_Arab arb_Latn
    ars_Arab ary_Arab arz_Arab asm_Beng ast_Latn awa_Deva ayr_Latn azb_Arab azj_Latn bak_Cyrl bam_Latn ban_Latn bel_Cyrl
    bem_Latn ben_Beng bho_Deva bjn_Arab bjn_Latn bod_Tibt bos_Latn bug_Latn bul_Cyrl cat_Latn ceb_Latn ces_Latn cjk_Latn
    ckb_Arab crh_Latn cym_Latn dan_Latn deu_Latn dik_Latn dyu_Latn dzo_Tibt ell_Grek eng_Latn epo_Latn est_Latn eus_Latn
    ewe_Latn fao_Latn fij_Latn fin_Latn fon_Latn fra_Latn fur_Latn fuv_Latn gaz_Latn gla_Latn gle_Latn glg_Latn grn_Latn
    guj_Gujr hat_Latn hau_Latn heb_Hebr hin_Deva hne_Deva hrv_Latn hun_Latn hye_Armn ibo_Latn ilo_Latn ind_Latn isl_Latn
    ita_Latn jav_Latn jpn_Jpan kab_Latn kac_Latn kam_Latn kan_Knda kas_Arab kas_Deva kat_Geor kaz_Cyrl kbp_Latn kea_Latn
    khk_Cyrl khm_Khmr kik_Latn kin_Latn kir_Cyrl kmb_Latn kmr_Latn knc_Arab knc_Latn kon_Latn kor_Hang lao_Laoo lij_Latn
    lim_Latn lin_Latn lit_Latn lmo_Latn ltg_Latn ltz_Latn lua_Latn lug_Latn luo_Latn lus_Latn lvs_Latn mag_Deva mai_Deva
    mal_Mlym mar_Deva min_Arab min_Latn mkd_Cyrl mlt_Latn mni_Beng mos_Latn mri_Latn mya_Mymr nld_Latn nno_Latn nob_Latn
    npi_Deva nso_Latn nus_Latn nya_Latn oci_Latn ory_Orya pag_Latn pan_Guru pap_Latn pbt_Arab pes_Arab plt_Latn pol_Latn
    por_Latn prs_Arab quy_Latn ron_Latn run_Latn rus_Cyrl sag_Latn san_Deva sat_Olck scn_Latn shn_Mymr sin_Sinh slk_Latn
    slv_Latn smo_Latn sna_Latn snd_Arab som_Latn sot_Latn spa_Latn srd_Latn srp_Cyrl ssw_Latn sun_Latn swe_Latn swh_Latn
    szl_Latn tam_Taml taq_Latn taq_Tfng tat_Cyrl tel_Telu tgk_Cyrl tgl_Latn tha_Thai tir_Ethi tpi_Latn tsn_Latn tso_Latn
    tuk_Latn tum_Latn tur_Latn twi_Latn tzm_Tfng uig_Arab ukr_Cyrl umb_Latn urd_Arab uzn_Latn vec_Latn vie_Latn war_Latn
    wol_Latn xho_Latn ydd_Hebr yor_Latn yue_Hant zho_Hans zho_Hant zsm_Latn zul_Latn
    """.split()  # noqa: SIM905 - one code a line would be 204 lines
)

ALIASES: dict[str, str] = dict(
    pair.split("=")
    for pair in """
    af=afr_Latn am=amh_Ethi ar=arb_Arab as=asm_Beng ast=ast_Latn az=azj_Latn ba=bak_Cyrl be=bel_Cyrl bg=bul_Cyrl
    bn=ben_Beng bs=bos_Latn ca=cat_Latn ceb=ceb_Latn cs=ces_Latn cy=cym_Latn da=dan_Latn de=deu_Latn el=ell_Grek
    en=eng_Latn eo=epo_Latn es=spa_Latn et=est_Latn eu=eus_Latn fa=pes_Arab ff=fuv_Latn fi=fin_Latn fr=fra_Latn
    ga=gle_Latn gd=gla_Latn gl=glg_Latn gn=grn_Latn gu=guj_Gujr ha=hau_Latn he=heb_Hebr hi=hin_Deva hr=hrv_Latn
    ht=hat_Latn hu=hun_Latn hy=hye_Armn id=ind_Latn ig=ibo_Latn ilo=ilo_Latn is=isl_Latn it=ita_Latn ja=jpn_Jpan
    jv=jav_Latn ka=kat_Geor kk=kaz_Cyrl km=khm_Khmr kn=kan_Knda ko=kor_Hang lb=ltz_Latn lg=lug_Latn ln=lin_Latn
    lo=lao_Laoo lt=lit_Latn lv=lvs_Latn mg=plt_Latn mk=mkd_Cyrl ml=mal_Mlym mn=khk_Cyrl mr=mar_Deva ms=zsm_Latn
    mt=mlt_Latn my=mya_Mymr nb=nob_Latn ne=npi_Deva nl=nld_Latn nn=nno_Latn no=nob_Latn ns=nso_Latn oc=oci_Latn
    om=gaz_Latn or=ory_Orya pa=pan_Guru pl=pol_Latn ps=pbt_Arab pt=por_Latn ro=ron_Latn ru=rus_Cyrl rw=kin_Latn
    sd=snd_Arab si=sin_Sinh sk=slk_Latn sl=slv_Latn so=som_Latn sq=als_Latn sr=srp_Cyrl ss=ssw_Latn su=sun_Latn
    sv=swe_Latn sw=swh_Latn ta=tam_Taml te=tel_Telu tg=tgk_Cyrl th=tha_Thai ti=tir_Ethi tk=tuk_Latn tl=tgl_Latn
    tn=tsn_Latn tr=tur_Latn ug=uig_Arab uk=ukr_Cyrl ur=urd_Arab uz=uzn_Latn vi=vie_Latn wo=wol_Latn xh=xho_Latn
    yi=ydd_Hebr yo=yor_Latn zh=zho_Hans zh-CN=zho_Hans zh-TW=zho_Hant zu=zul_Latn
    ara_Arab=arb_Arab aze_Latn=azj_Latn ekk_Latn=est_Latn fas_Arab=pes_Arab fil_Latn=tgl_Latn kur_Latn=kmr_Latn
    lav_Latn=lvs_Latn mlg_Latn=plt_Latn mon_Cyrl=khk_Cyrl msa_Latn=zsm_Latn nep_Deva=npi_Deva nor_Latn=nob_Latn
    orm_Latn=gaz_Latn ori_Orya=ory_Orya pus_Arab=pbt_Arab sat_Beng=sat_Olck sqi_Latn=als_Latn swa_Latn=swh_Latn
    uzb_Latn=uzn_Latn yid_Hebr=ydd_Hebr cmn_Hans=zho_Hans cmn_Hant=zho_Hant kor_Kore=kor_Hang
    """.split()  # noqa: SIM905
)
"""Other spellings that mean exactly one FLORES-200 code: ISO 639-1, macrolanguages, and the tag NLLB uses for Santali."""

_KNOWN = frozenset(FLORES_200)
_NEAR = 5
"""Farther codes are no slip of the pen: one letter of the language and the script may differ."""


def check_language(code: str) -> str:
    """Return the FLORES-200 code that `code` (a FLORES-200 code or one of `ALIASES`) names.

    Raises:
        UserError: the code is unknown; the message names the nearest FLORES-200 code.
    """
    if code in _KNOWN:
        return code
    if code in ALIASES:
        return ALIASES[code]
    nearest = nearest_code(code)
    hint = f"did you mean '{nearest}'?" if _code_distance(code, nearest) <= _NEAR else "they look like 'deu_Latn'"
    raise UserError(f"unknown language tag '{code}': not one of the FLORES-200 codes; {hint}")


def has_word_spaces(code: str) -> bool:
    """Whether the script of a FLORES-200 code puts blanks between words."""
    return code.partition("_")[2] not in ("Jpan", "Hans", "Hant", "Thai", "Laoo", "Khmr", "Mymr", "Tibt")


def nearest_code(code: str, known: Iterable[str] = FLORES_200) -> str:
    """The member of `known` closest to `code`: the right language in another script beats the wrong language."""
    return min(known, key=lambda candidate: (_code_distance(code, candidate), candidate))


def _code_distance(left: str, right: str) -> int:
    """Three for each edit of the language, at most two for the script: a script is a slip, a language seldom is."""
    left_language, _, left_script = left.strip().partition("_")
    right_language, _, right_script = right.partition("_")
    script_edits = _edit_distance(left_script.lower(), right_script.lower())
    return 3 * _edit_distance(left_language.lower(), right_language.lower()) + min(script_edits, 2)


def _edit_distance(left: str, right: str) -> int:
    """Levenshtein distance."""
    row = list(range(len(right) + 1))
    for i, left_char in enumerate(left, start=1):
        previous, row[0] = row[0], i
        for j, right_char in enumerate(right, start=1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (left_char != right_char))
    return row[-1]
