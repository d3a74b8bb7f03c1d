"""Does an English chat model learn other languages from its own English answers, translated?"""
