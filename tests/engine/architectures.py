"""The architectures that are tested, and the README's table of them.

`python -m tests.engine.architectures` writes the table into the README.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import transformers
from transformers import PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from fly.engine.model import probe
from fly.engine.model.probe import CacheKind
from tests.models import WINDOW, tiny

README = Path(__file__).parent.parent.parent / "README.md"
BEGIN, END = "<!-- architectures: begin -->\n", "<!-- architectures: end -->\n"
IS_NEWEST = int(transformers.__version__.partition(".")[0]) >= 5


@dataclass(frozen=True)
class Family:
    """One architecture and what the probe must find."""

    name: str
    kind: str  # model_type
    settings: Mapping[str, object] = field(default_factory=dict)
    cache: CacheKind = probe.BATCHED
    floor: CacheKind | None = probe.BATCHED  # with transformers 4.57; None: it does not exist there
    remark: str = ""
    floor_is_traced: bool = True  # whether transformers 4.57's forward can be (compiled steps)

    @property
    def cache_here(self) -> CacheKind | None:
        """What the installed transformers must give."""
        return self.cache if IS_NEWEST else self.floor

    @property
    def is_traced(self) -> bool:
        """Whether the installed transformers' forward can be traced."""
        return IS_NEWEST or self.floor_is_traced

    @property
    def exists(self) -> bool:
        """Whether the installed transformers has it."""
        return self.kind in CONFIG_MAPPING

    @property
    def num_tokens(self) -> int:
        """New tokens that a test needs: past the window, where there is one."""
        return 2 * WINDOW + 2 if "sliding_window" in self.settings else 14

    def model(self, seed: int = 0) -> PreTrainedModel:
        """A tiny random one."""
        return tiny(self.kind, seed, **self.settings)


SLIDING = {"sliding_window": WINDOW}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
MIXED = ("sliding_attention", "full_attention")
HEADS = {"head_dim": 8}
# Scans hold time steps above time_step_min, single steps do not (transformers 5.23): below it
# `generate` itself differs from one forward.
TIME_STEPS = {"time_step_min": 1e-12, "time_step_floor": 1e-3}
TIME_STEP_REMARK = "time steps below `time_step_min` may cost equality"
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 8}

BATCHED = [
    Family("Llama", "llama"),
    Family("Mistral", "mistral", SLIDING, remark="sliding window"),
    Family(
        "Qwen2",
        "qwen2",
        {**SLIDING, "use_sliding_window": True, "max_window_layers": 1, "layer_types": MIXED},
        remark="sliding window in some layers",
    ),
    Family("Qwen3", "qwen3", HEADS),
    Family("Qwen3-MoE", "qwen3_moe", {**HEADS, **EXPERTS}, floor_is_traced=False),
    Family(
        "Mixtral",
        "mixtral",
        {"num_local_experts": 4, **SLIDING},
        remark="sliding window",
        floor_is_traced=False,
    ),
    Family("Gemma 2", "gemma2", {**HEADS, **SLIDING}, remark="sliding window in some layers"),
    Family(
        "Gemma 3 (text)",
        "gemma3_text",
        {**HEADS, **SLIDING, "layer_types": MIXED},
        remark="sliding window in some layers",
    ),
    Family(
        "Phi-3",
        "phi3",
        SLIDING,
        remark="sliding window; longrope: up to its original context",
    ),
    Family("GPT-2", "gpt2", {"n_inner": 64}),
    Family("GPT-NeoX", "gpt_neox"),
    Family("OPT", "opt", {"ffn_dim": 64, "word_embed_proj_dim": 32}),
    Family("Falcon", "falcon", remark="with ALiBi: row by row"),
    Family("OLMo 2", "olmo2"),
    Family("Cohere", "cohere"),
    Family("StarCoder2", "starcoder2", SLIDING, remark="sliding window"),
    Family(
        "DeepSeek-V3",
        "deepseek_v3",
        {
            "moe_intermediate_size": 32,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "kv_lora_rank": 16,
            "q_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
            "head_dim": 8,
            "num_key_value_heads": 4,
        },
        floor_is_traced=False,
    ),
    Family(
        "gpt-oss",
        "gpt_oss",
        {**HEADS, **SLIDING, "num_local_experts": 4, "num_experts_per_tok": 2},
        remark="sliding window in some layers; eager attention",
        floor_is_traced=False,
    ),
]
ROWWISE = [
    Family("Bloom", "bloom", {}, probe.ROWWISE, probe.ROWWISE, "ALiBi"),
    Family(
        "Qwen3-Next",
        "qwen3_next",
        {
            **HEADS,
            **EXPERTS,
            "shared_expert_intermediate_size": 32,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "layer_types": ("linear_attention", "full_attention"),
        },
        probe.ROWWISE,
        probe.STEPWISE,
        "recurrent layers",
    ),
    Family(
        "Nemotron-H",
        "nemotron_h",
        {
            **HEADS,
            "layers_block_type": ("mamba", "attention", "mlp"),
            "num_hidden_layers": 3,
            "mamba_num_heads": 4,
            "mamba_head_dim": 16,
            "n_groups": 1,
            "ssm_state_size": 8,
            "chunk_size": 8,
            "mlp_hidden_act": "relu2",
            **TIME_STEPS,
        },
        probe.ROWWISE,
        None,
        f"recurrent layers; {TIME_STEP_REMARK}",
    ),
    Family(
        "Zamba2",
        "zamba2",
        {
            "mamba_d_state": 8,
            "n_mamba_heads": 4,
            "mamba_ngroups": 1,
            # 4.57's forward of a text of several chunks is not that of its tokens one by one.
            "chunk_size": 8 if IS_NEWEST else 128,
            "num_key_value_heads": 4,
            "layers_block_type": ("mamba", "hybrid"),
            "adapter_rank": 4,
            **TIME_STEPS,
        },
        probe.ROWWISE,
        probe.STEPWISE,
        f"recurrent layers; {TIME_STEP_REMARK}",
    ),
    Family(
        "Falcon-H1",
        "falcon_h1",
        {**HEADS, **MAMBA, "mamba_d_ssm": 64},
        probe.ROWWISE,
        probe.STEPWISE,
        "recurrent state in every layer",
    ),
]
UNCACHED = [Family("OpenAI GPT", "openai-gpt", {}, probe.UNCACHED, probe.UNCACHED, "has no cache")]
FAMILIES = {family.name: family for family in [*BATCHED, *ROWWISE, *UNCACHED]}

AS_TARGET = {probe.STEPWISE: "plain decoding", probe.PLAIN: "plain decoding"}
AS_DRAFT = {probe.STEPWISE: "yes, one token at a time", probe.PLAIN: "no"}


@functools.cache
def table() -> str:
    """The families in Markdown."""
    lines = [
        "| family | `model_type` | served | as target | as draft | remarks |",
        "|---|---|---|---|---|---|",
    ]
    for family in FAMILIES.values():
        remarks = [family.remark] if family.remark else []
        if family.floor is None:
            remarks.append("not in transformers 4.57")
        elif family.floor is not family.cache:
            target, draft = (part.get(family.floor, "yes") for part in (AS_TARGET, AS_DRAFT))
            remarks.append(f"transformers 4.57: as target {target}, as draft {draft}")
        if not family.floor_is_traced:
            remarks.append("transformers 4.57: not compiled, it loops over the experts hit")
        cells = [
            family.name,
            f"`{family.kind}`",
            family.cache.name,
            AS_TARGET.get(family.cache, "yes"),
            AS_DRAFT.get(family.cache, "yes"),
            "; ".join(remarks),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def block(readme: str) -> str:
    """What stands between the README's marks."""
    return readme.partition(BEGIN)[2].partition(END)[0]


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    README.write_text(text.replace(BEGIN + block(text), BEGIN + table()), encoding="utf-8")
