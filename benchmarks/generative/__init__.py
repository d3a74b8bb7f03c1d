"""Does an English chat model answer in English where prompts are in other languages, read for it by a multilingual encoder?"""
