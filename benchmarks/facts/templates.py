"""Questions in eighteen languages. Every name stands apart from the sentence, in the nominative and without an article, as CLDR
gives it: no language has to inflect it, and the sentence does not change with it."""

# ruff: noqa: RUF001 - other scripts are what this file is about

from __future__ import annotations

from dataclasses import dataclass

from mtllm_ds.languages import ENGLISH

KINDS = ("capital", "country", "currency", "continent", "language")
"""What is asked of a country; `country` asks the other way round, with the capital's name in the question"""
NOTHING = "..."
"""Stands for the name where a question is asked blindly"""


@dataclass(frozen=True)
class Wording:
    """The words of one language. `{name}` is a country; in `country` its capital."""

    locale: str
    """of CLDR"""
    capital: str
    country: str
    currency: str
    continent: str
    language: str
    question: str
    """Label of a question"""
    answer: str
    """Label of its answer"""

    def ask(self, kind: str, name: str) -> str:
        """The question of a kind about a name."""
        return getattr(self, kind).replace("{name}", name)

    def labelled(self, question: str) -> str:
        """A question and the place of its answer, with their labels."""
        return f"{self.question} {question}\n{self.answer}"


WORDINGS: dict[str, Wording] = {
    ENGLISH: Wording(
        "en",
        "Country: {name}. What is its capital?",
        "City: {name}. Which country is it the capital of?",
        "Country: {name}. What is its currency?",
        "Country: {name}. On which continent does it lie?",
        "Country: {name}. What is its official language?",
        "Question:", "Answer:",
    ),
    "arb_Arab": Wording(
        "ar",
        "البلد: {name}. ما هي عاصمة هذا البلد؟",
        "المدينة: {name}. ما هو البلد الذي تُعدّ هذه المدينة عاصمته؟",
        "البلد: {name}. ما هي عملة هذا البلد؟",
        "البلد: {name}. في أي قارة يقع هذا البلد؟",
        "البلد: {name}. ما هي اللغة الرسمية لهذا البلد؟",
        "السؤال:", "الجواب:",
    ),
    "deu_Latn": Wording(
        "de",
        "Land: {name}. Wie heißt die Hauptstadt dieses Landes?",
        "Stadt: {name}. Von welchem Land ist sie die Hauptstadt?",
        "Land: {name}. Wie heißt die Währung dieses Landes?",
        "Land: {name}. Auf welchem Kontinent liegt dieses Land?",
        "Land: {name}. Was ist die Amtssprache dieses Landes?",
        "Frage:", "Antwort:",
    ),
    "fra_Latn": Wording(
        "fr",
        "Pays : {name}. Quelle est la capitale de ce pays ?",
        "Ville : {name}. De quel pays cette ville est-elle la capitale ?",
        "Pays : {name}. Quelle est la monnaie de ce pays ?",
        "Pays : {name}. Sur quel continent se trouve ce pays ?",
        "Pays : {name}. Quelle est la langue officielle de ce pays ?",
        "Question :", "Réponse :",
    ),
    "hin_Deva": Wording(
        "hi",
        "देश: {name}। इस देश की राजधानी क्या है?",
        "शहर: {name}। यह शहर किस देश की राजधानी है?",
        "देश: {name}। इस देश की मुद्रा क्या है?",
        "देश: {name}। यह देश किस महाद्वीप में है?",
        "देश: {name}। इस देश की राजभाषा क्या है?",
        "प्रश्न:", "उत्तर:",
    ),
    "ind_Latn": Wording(
        "id",
        "Negara: {name}. Apa ibu kota negara ini?",
        "Kota: {name}. Kota ini adalah ibu kota negara apa?",
        "Negara: {name}. Apa mata uang negara ini?",
        "Negara: {name}. Di benua mana negara ini terletak?",
        "Negara: {name}. Apa bahasa resmi negara ini?",
        "Pertanyaan:", "Jawaban:",
    ),
    "ita_Latn": Wording(
        "it",
        "Paese: {name}. Qual è la capitale di questo paese?",
        "Città: {name}. Di quale paese è la capitale questa città?",
        "Paese: {name}. Qual è la valuta di questo paese?",
        "Paese: {name}. In quale continente si trova questo paese?",
        "Paese: {name}. Qual è la lingua ufficiale di questo paese?",
        "Domanda:", "Risposta:",
    ),
    "jpn_Jpan": Wording(
        "ja",
        "国：{name}。この国の首都はどこですか？",
        "都市：{name}。この都市はどの国の首都ですか？",
        "国：{name}。この国の通貨は何ですか？",
        "国：{name}。この国はどの大陸にありますか？",
        "国：{name}。この国の公用語は何ですか？",
        "質問：", "答え：",
    ),
    "khm_Khmr": Wording(
        "km",
        "ប្រទេស៖ {name}។ តើរដ្ឋធានីរបស់ប្រទេសនេះឈ្មោះអ្វី?",
        "ទីក្រុង៖ {name}។ តើទីក្រុងនេះជារដ្ឋធានីរបស់ប្រទេសណា?",
        "ប្រទេស៖ {name}។ តើរូបិយប័ណ្ណរបស់ប្រទេសនេះឈ្មោះអ្វី?",
        "ប្រទេស៖ {name}។ តើប្រទេសនេះស្ថិតនៅក្នុងទ្វីបណា?",
        "ប្រទេស៖ {name}។ តើភាសាផ្លូវការរបស់ប្រទេសនេះជាភាសាអ្វី?",
        "សំណួរ៖", "ចម្លើយ៖",
    ),
    "kor_Hang": Wording(
        "ko",
        "나라: {name}. 이 나라의 수도는 어디입니까?",
        "도시: {name}. 이 도시는 어느 나라의 수도입니까?",
        "나라: {name}. 이 나라의 통화는 무엇입니까?",
        "나라: {name}. 이 나라는 어느 대륙에 있습니까?",
        "나라: {name}. 이 나라의 공용어는 무엇입니까?",
        "질문:", "답:",
    ),
    "pol_Latn": Wording(
        "pl",
        "Kraj: {name}. Jak nazywa się stolica tego kraju?",
        "Miasto: {name}. Którego kraju stolicą jest to miasto?",
        "Kraj: {name}. Jaka jest waluta tego kraju?",
        "Kraj: {name}. Na którym kontynencie leży ten kraj?",
        "Kraj: {name}. Jaki jest język urzędowy tego kraju?",
        "Pytanie:", "Odpowiedź:",
    ),
    "por_Latn": Wording(
        "pt",
        "País: {name}. Qual é a capital deste país?",
        "Cidade: {name}. De que país esta cidade é a capital?",
        "País: {name}. Qual é a moeda deste país?",
        "País: {name}. Em que continente fica este país?",
        "País: {name}. Qual é a língua oficial deste país?",
        "Pergunta:", "Resposta:",
    ),
    "rus_Cyrl": Wording(
        "ru",
        "Страна: {name}. Как называется столица этой страны?",
        "Город: {name}. Столицей какой страны является этот город?",
        "Страна: {name}. Как называется валюта этой страны?",
        "Страна: {name}. На каком континенте находится эта страна?",
        "Страна: {name}. Какой официальный язык этой страны?",
        "Вопрос:", "Ответ:",
    ),
    "spa_Latn": Wording(
        "es",
        "País: {name}. ¿Cuál es la capital de este país?",
        "Ciudad: {name}. ¿De qué país es capital esta ciudad?",
        "País: {name}. ¿Cuál es la moneda de este país?",
        "País: {name}. ¿En qué continente se encuentra este país?",
        "País: {name}. ¿Cuál es el idioma oficial de este país?",
        "Pregunta:", "Respuesta:",
    ),
    "swh_Latn": Wording(
        "sw",
        "Nchi: {name}. Mji mkuu wa nchi hii ni upi?",
        "Mji: {name}. Mji huu ni mji mkuu wa nchi gani?",
        "Nchi: {name}. Sarafu ya nchi hii ni ipi?",
        "Nchi: {name}. Nchi hii iko katika bara gani?",
        "Nchi: {name}. Lugha rasmi ya nchi hii ni ipi?",
        "Swali:", "Jibu:",
    ),
    "tur_Latn": Wording(
        "tr",
        "Ülke: {name}. Bu ülkenin başkenti neresidir?",
        "Şehir: {name}. Bu şehir hangi ülkenin başkentidir?",
        "Ülke: {name}. Bu ülkenin para birimi nedir?",
        "Ülke: {name}. Bu ülke hangi kıtada yer alır?",
        "Ülke: {name}. Bu ülkenin resmî dili nedir?",
        "Soru:", "Cevap:",
    ),
    "vie_Latn": Wording(
        "vi",
        "Quốc gia: {name}. Thủ đô của quốc gia này là gì?",
        "Thành phố: {name}. Thành phố này là thủ đô của quốc gia nào?",
        "Quốc gia: {name}. Đơn vị tiền tệ của quốc gia này là gì?",
        "Quốc gia: {name}. Quốc gia này nằm ở châu lục nào?",
        "Quốc gia: {name}. Ngôn ngữ chính thức của quốc gia này là gì?",
        "Câu hỏi:", "Trả lời:",
    ),
    "zho_Hans": Wording(
        "zh",
        "国家：{name}。这个国家的首都是哪里？",
        "城市：{name}。这座城市是哪个国家的首都？",
        "国家：{name}。这个国家的货币是什么？",
        "国家：{name}。这个国家位于哪个大洲？",
        "国家：{name}。这个国家的官方语言是什么？",
        "问题：", "答案：",
    ),
}  # fmt: skip
FOREIGN = tuple(code for code in WORDINGS if code != ENGLISH)
