"""Translation of lm-eval's Instances to Requests, and of Results back.  The rules are HFLM's
(0.4.10 to 0.4.13): stop strings, the BOS decision, cutting prompts from the left.  Differs: prompts
are cut one by one and not as a padded batch; stop strings of a generation config hold, with which
HFLM fails."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lm_eval.models.utils import postprocess_generated_text
from lm_eval.utils import handle_non_serializable, hash_string

from fly.engine import Request, Result, Thinking
from fly.engine.admission import refuse_lone_surrogates
from fly.engine.stopping import opening_of
from fly.errors import RequestError, quoted
from fly.harness.gen_kwargs import GenerationArguments, read_do_sample, wanted_temperature

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from transformers import PreTrainedTokenizerBase

    from fly.config import FLyConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """One Instance: the engine's request, and the stop strings (the EOS text among them) that clean
    its answer."""

    request: Request
    until: tuple[str, ...]


@dataclass(frozen=True)
class RequestReader:
    """Turns Instances into requests and results into answers, as HFLM would.

    `max_context` counts prompt and new tokens; `default_max_gen_toks` holds for tasks that name no
    budget; `stop_strings` and `idle_budget` are the target's generation config's.
    """

    tokenizer: PreTrainedTokenizerBase
    config: FLyConfig
    max_context: int
    default_max_gen_toks: int
    prefix_token_id: int | None
    add_bos_token: bool | None = None
    truncation: bool = False
    think_end_token: str | int | None = None
    enable_thinking: bool | None = None  # None leaves it to the chat template
    stop_strings: tuple[str, ...] = ()
    idle_budget: int | None = None
    vocab_size: int | None = None

    def read(self, instances: Sequence[Instance], seeds: Sequence[int]) -> list[Prepared]:
        """All requests, in the order given, each with the seed of its draws.  Warns once how many
        prompts had to be cut.

        Raises:
            RequestError: a request leaves no room for its prompt, samples at temperature 0, or asks
                for what the engine does not have.
        """
        prepared, num_cut = [], 0
        notes: dict[str, None] = {}  # each given once
        for instance, seed in zip(instances, seeds, strict=True):
            where = f"task {instance.task_name!r}"
            asked = GenerationArguments.read(instance.args[1], where, self.vocab_size)
            notes |= dict.fromkeys(asked.notes)
            one, cut = self._read_one(instance, asked, where, seed)
            prepared.append(one)
            num_cut += cut
        if self.idle_budget is not None:
            notes[
                f"the target's generation config says max_new_tokens {self.idle_budget}, which "
                "does not hold here: a task's max_gen_toks does"
            ] = None
        for note in notes:
            logger.warning("%s", note)
        if num_cut:
            logger.warning(
                "%d of %d prompts leave no room for their max_gen_toks in the context of %d tokens "
                "and were cut from the left",
                num_cut,
                len(prepared),
                self.max_context,
            )
        return prepared

    def answer(self, prepared: Prepared, result: Result) -> str:
        """The text of a result without stop string and thinking, as HFLM returns it."""
        text, end = result.text, self._think_end
        if isinstance(end, int):
            if end in result.token_ids:
                last = len(result.token_ids) - 1 - result.token_ids[::-1].index(end)
                answer_ids = result.token_ids[last + 1 :]
                text = str(self.tokenizer.decode(answer_ids, skip_special_tokens=True))
        elif end is not None:
            text = text.split(end)[-1]
        if end is not None:
            text = text.lstrip()  # with and without the marker
        # Not by lm-eval's function: its older versions look for stop strings in the thinking too.
        answer: str = postprocess_generated_text(text, list(prepared.until), None)
        return answer

    def _read_one(
        self, instance: Instance, asked: GenerationArguments, where: str, seed: int
    ) -> tuple[Prepared, bool]:
        context, gen_kwargs = instance.args
        temperature = self._temperature(gen_kwargs, where)
        eos = self._eos_text()
        until = dict.fromkeys([*asked.until, *self.stop_strings, *([] if eos is None else [eos])])
        budget = asked.max_gen_toks or self.default_max_gen_toks
        if self.config.total_gen_tok is not None:
            budget = min(budget, self.config.total_gen_tok)
        room = self.max_context - budget
        if room < 1:
            raise RequestError(
                f"{where}: {asked.budget_key} is {quoted(budget)}, but prompt and answer together "
                f"have room for {self.max_context} tokens",
                fix="lower it: --gen_kwargs max_gen_toks=N, or total_gen_tok in the configuration",
            )
        refuse_lone_surrogates(context, f"{where}, document {instance.doc_id}: the prompt")
        ids = self._encode(context)
        prompt = ids[-room:]
        if asked.max_length is not None:
            budget = self._budget_from_max_length(asked.max_length, len(prompt), where)
        request = Request(
            prompt_ids=tuple(prompt),
            max_new_tokens=budget,
            stop=tuple(string for string in until if string and string != eos),
            temperature=temperature,
            seed=seed,
            generation=self._with_own_end(asked.generation),
            key=instance.task_name or "",
            thinking=self._thinking(context),
        )
        return Prepared(request, tuple(until)), len(ids) > room

    @cached_property
    def _think_end(self) -> str | int | None:
        """A special token as its id: the texts of answers do not show it.  Differs: HFLM looks
        there, and takes all of the thinking for the answer."""
        end = self.think_end_token
        if not isinstance(end, str):
            return end
        added = self.tokenizer.added_tokens_decoder.items()
        ids = [index for index, token in added if token.special and token.content == end]
        return ids[0] if ids else end

    def _thinking(self, context: str) -> Thinking | None:
        """What comes before the answer, of a model that thinks; over where the prompt ends it, as
        templates do that switch it off."""
        end = self._think_end
        if end is None:
            return None
        marker = end if isinstance(end, str) else str(self.tokenizer.decode([end]))
        opening = opening_of(marker)
        opened = context.rfind(opening) if opening else -1
        is_off = self.enable_thinking is not None and not self.enable_thinking
        return Thinking(end, is_over=is_off or context.rfind(marker) > opened)

    def _with_own_end(self, generation: dict[str, Any]) -> dict[str, Any]:
        """HFLM stops at the tokenizer's end token, too, whatever else a request names."""
        named = generation.get("eos_token_id")
        if named is None:
            return generation
        ends = [*(named if isinstance(named, list) else [named]), self.tokenizer.eos_token_id]
        return generation | {
            "eos_token_id": [end for end in dict.fromkeys(ends) if end is not None]
        }

    def _eos_text(self) -> str | None:
        """HFLM's last stop string.  The engine stops at the id itself."""
        eos_id = self.tokenizer.eos_token_id
        if eos_id is None:
            return None
        return str(self.tokenizer.decode([eos_id], skip_special_tokens=False))

    def _encode(self, context: str) -> list[int]:
        """Ids of a prompt; BOS as HFLM decides it, but for each prompt.  An empty one becomes the
        prefix token."""
        options: dict[str, Any] = {}
        bos = getattr(self.tokenizer, "bos_token", None)
        if bos and context.startswith(bos):
            options["add_special_tokens"] = False
        elif self.add_bos_token is not None:
            options["add_special_tokens"] = self.add_bos_token
        ids: list[int] = self.tokenizer(context, truncation=self.truncation, **options)["input_ids"]
        if ids:
            return ids
        if self.prefix_token_id is None:
            raise RequestError(
                "a prompt is empty and the tokenizer has neither BOS nor EOS to begin with",
                fix="give prefix_token_id=ID among the model arguments",
            )
        return [self.prefix_token_id]

    def _temperature(self, gen_kwargs: dict[str, Any], where: str) -> float:
        temperature = wanted_temperature(gen_kwargs, self.config.temperature, where)
        do_sample = gen_kwargs.get("do_sample")
        if do_sample is not None and read_do_sample(do_sample, where) and temperature <= 0:
            raise RequestError(
                f"{where}: do_sample is {quoted(do_sample)}, but temperature is "
                f"{quoted(gen_kwargs.get('temperature'))}",
                fix="add a temperature: --gen_kwargs do_sample=True,temperature=0.8",
            )
        return temperature

    def _budget_from_max_length(self, max_length: int, prompt_len: int, where: str) -> int:
        """`max_length` counts the prompt too and, as in HFLM, goes before `max_gen_toks`."""
        budget = min(max_length, self.max_context) - prompt_len
        if budget < 1:
            raise RequestError(
                f"{where}: max_length is {max_length}, but a prompt has {prompt_len} tokens",
                fix="use max_gen_toks, which counts new tokens only",
            )
        return budget


def number_copies(instances: Sequence[Instance]) -> list[int]:
    """0, 1, 2, … for the Instances of one task, document and index, in the order of the list."""
    seen: Counter[tuple[str | None, int | None, int]] = Counter()
    numbers = []
    for instance in instances:
        name = (instance.task_name, instance.doc_id, instance.idx)
        numbers.append(seen[name])
        seen[name] += 1
    return numbers


def draw_seed(instance: Instance, copy: int, base: int) -> int:
    """The seed of a request's random draws: its own whatever else is decoded, in whichever process.

    Args:
        instance: its task, document and index count.
        copy: its number among the copies of the same Instance.
        base: the run's seed.
    """
    named = json.dumps([base, instance.task_name, instance.doc_id, instance.idx, copy])
    return int.from_bytes(hashlib.sha256(named.encode()).digest()[:8], "big")


def hash_document(doc: Any) -> str | None:
    """The `doc_hash` of lm-eval's sample files, which unlike their `doc_id` is the same whatever
    part of a task is asked for; None for a document of which lm-eval cannot make a sample."""
    try:
        text = json.dumps(doc, indent=2, default=handle_non_serializable, ensure_ascii=False)
        return str(hash_string(text))
    except (TypeError, ValueError):
        return None


def find_originals(instances: Sequence[Instance]) -> list[int]:
    """For each place in the list the place whose answer belongs there: its own, or for padding that
    of the copy it repeats.

    Padding is found by identity: Instances that only look alike are requests of their own.
    """
    copies: dict[int, list[int]] = {}
    originals = []
    for place, instance in enumerate(instances):
        places = copies.setdefault(id(instance), [])
        places.append(place)
        # The copies take turns: the first padding repeats the first copy, and so on.
        originals.append(places[(len(places) - 1) % (instance.repeats or 1)])
    return originals
