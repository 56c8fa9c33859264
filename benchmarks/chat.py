"""What people ask a chat model, for real models: short, of many kinds, none of it chosen for how it
decodes."""

from __future__ import annotations

from typing import Any

PASSAGE = (
    "The harbour was dredged in 1894, when coal ships began to call. A lighthouse followed four "
    "years later, and with it the first school. Fishing never paid as well as coal, yet it "
    "outlived it: when the mines closed, forty boats still left every morning."
)
TABLE = "name,year,city\nAda,1815,London\nGrace,1906,New York\nAlan,1912,London"

PROMPTS = (
    "List the planets of the solar system in order.",
    "Write a Python function that returns the n-th Fibonacci number.",
    "Give a JSON list of three books, each with title, author and year.",
    "Erkläre in drei Sätzen, warum der Himmel blau ist.",
    f"Summarise this in two sentences: {PASSAGE}",
    "What is 17 times 23? Show your steps.",
    "Write a haiku about rain on a tin roof.",
    "Translate into French: Where is the nearest train station?",
    "How do I boil an egg so that the yolk stays soft?",
    "Write an SQL query that counts the orders of every customer.",
    "¿Cuáles son las estaciones del año y cuándo empieza cada una?",
    "Name three differences between a frog and a toad.",
    f"Repeat this text with every number written out in words: {PASSAGE}",
    "Write a polite email that asks a landlord to mend a broken window.",
    "Give me a shopping list for a week, as a numbered list.",
    "What does the HTTP status code 404 mean?",
    f"Turn this table into Markdown:\n{TABLE}",
    "Write a regular expression that matches a date such as 2024-05-31.",
    "Who wrote Don Quixote, and what is it about?",
    "A train leaves at 9:40 and takes 2 hours and 35 minutes. When does it arrive?",
    "Write a JavaScript function that reverses a string.",
    "Describe the smell of a library to somebody who has never been in one.",
    "Quelles sont les trois plus grandes villes de France ?",
    "Explain recursion to a ten-year-old.",
    f"Correct the grammar: he dont know where is the keys, and me neither.\n\nThen: {TABLE}",
    "Write a limerick about a cat who learns to code.",
    "What are the advantages of wood over steel for building houses?",
    "Write a bash loop that renames every .txt file to .md.",
    "Give five synonyms for 'happy', each in a sentence of its own.",
    "Sort these words by length: pear, fig, banana, kiwi, apricot, plum.",
    f"Which sentences here are about fishing? Quote them. {PASSAGE}",
    "Plan a day in Lisbon for a family with two small children.",
)


def encode(tokenizer: Any, prompt: str, system: str | None = None) -> list[int]:
    """A prompt's ids through the chat template, behind a system prompt or the template's own."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages.append({"role": "user", "content": prompt})
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False).input_ids)
