"""Lines of logits on which the kernel of fly.acceptance.fused and its twin are tried."""

import torch
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def cuts(logits: Tensor) -> tuple[tuple[int, int | None], ...]:
    """Block and splits with which the kernel is tried; None: as many splits as it chooses itself.
    In the interpreter a block takes as long whatever its size.
    """
    vocab = logits.shape[-1]
    if vocab > 10_000:
        return ((4096, 1), (8192, None))
    return ((2048, 1), (1024, 4)) if vocab > 1000 else ((512, 2),)


def cases() -> dict[str, Tensor]:
    """Logits [R, T, V] by name, the same at every call."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int, scale: float = 4.0) -> Tensor:
        return torch.randn(*shape, generator=generator) * scale

    found = {}
    for vocab in (1, 2, 3, 7, 832, 5000):
        for (name, dtype), scale in zip(DTYPES.items(), (1.0, 8.0, 3.0), strict=True):
            found[f"V {vocab}, {name}"] = normal(1, 2, vocab, scale=scale).to(dtype)
        found[f"V {vocab}, zeros"] = torch.zeros(1, 2, vocab)
    for vocab in (4096, 32_000, 128_256, 152_064):
        for name, dtype in DTYPES.items():
            found[f"V {vocab}, {name}"] = normal(1, 1, vocab, scale=3.0).to(dtype)
    return found | special(normal(1, 2, 4600))


def special(x: Tensor) -> dict[str, Tensor]:
    """What is not just random, made of logits [1, 2, V]."""
    low, high, nan = -torch.inf, torch.inf, torch.nan
    size = x.shape[-1]

    def put(ids: tuple[int, ...], value: float, base: Tensor = x) -> Tensor:
        changed = base.clone()
        changed[0, 1, list(ids)] = value
        return changed

    empty = x.clone()
    empty[0, 1] = low
    wide = torch.randn(1, 2, 2 * size + 1, generator=torch.Generator().manual_seed(2))
    return {
        "rounded": x.round(),
        "equal bests": put((17, 300, 2900), 50.0),
        "equal bests in the last places": put((size - 1, size - 2), 50.0),
        "equal second ones": put((4, 299, 2900), 49.0, put((2000,), 50.0)),
        "NaN": put((77, 2990), nan),
        "NaN in the last place": put((size - 1,), nan),
        "+inf": put((77,), high),
        "two +inf": put((77, 2990), high),
        "+inf before NaN": put((77,), high, put((2999,), nan)),
        "NaN and -inf": put((77,), nan, empty),
        "all -inf": empty,
        "one finite": put((2900,), 1.0, empty),
        "two finite and equal": put((5, 2900), 1.0, empty),
        "three finite": put((5,), 1.0, put((2900, 7), -3.0, empty)),
        "many -inf": torch.where(x > 0, x, low),
        "huge": x * 1e4,
        "tiny": x * 1e-9,
        "all -3e38": torch.full_like(x, -3e38),
        "of one large step": put((900,), 3e38),
        "every second line": torch.cat([x, x - 1], 0).flip(1)[::2],
        "rows and lines swapped": torch.cat([x, x - 1, x + 1])[:2].transpose(0, 1)[:1],
        "every second logit": wide[..., 1::2],
        "not the last logits": wide[..., :size],
    }
