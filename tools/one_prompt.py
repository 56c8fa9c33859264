"""One decode of the embedded pair, watched: files of fly/ whose functions run, and own frames on
the way to the model.  `measure_house.py` starts it with the checkout to be measured on the path.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

PROMPT = "def add(a, b):\n"
MAX_NEW_TOKENS = 24
INNER = ("<listcomp>", "<genexpr>", "<setcomp>", "<dictcomp>", "<lambda>", "<module>")


class Watch:
    """Every function of a package that is called while it looks, and the frames above a model."""

    def __init__(self, package: Path) -> None:
        """Watch the files below `package`."""
        self.package = str(package) + os.sep
        self.functions: set[CodeType] = set()
        self.depths: list[int] = []  # own frames above every forward of a model

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look while the block runs."""
        sys.setprofile(self._note)
        try:
            yield
        finally:
            sys.setprofile(None)

    def files(self) -> list[str]:
        """Files with a function that ran, relative to the package's parent."""
        names = {code.co_filename for code in self.functions if code.co_name not in INNER}
        root = Path(self.package).parent
        return sorted(Path(name).relative_to(root).as_posix() for name in names)

    def num_functions(self) -> int:
        """Functions and methods that ran."""
        return sum(code.co_name not in INNER for code in self.functions)

    def _note(self, frame: FrameType, event: str, argument: object) -> None:
        if event != "call":
            return
        code = frame.f_code
        if code.co_filename.startswith(self.package):
            self.functions.add(code)
        elif code.co_name == "forward" and type(frame.f_locals.get("self")).__name__.endswith(
            "ForCausalLM"
        ):
            self.depths.append(self._own_frames(frame.f_back))

    def _own_frames(self, frame: FrameType | None) -> int:
        """Functions of the package on the stack, down to `generate_until`."""
        count = 0
        while frame is not None:
            code = frame.f_code
            is_own = code.co_filename.startswith(self.package)
            count += is_own and code.co_name not in INNER
            if is_own and code.co_name == "generate_until":
                return count
            frame = frame.f_back
        return 0


def answer(**settings: Any) -> Callable[[], object]:
    """A call that answers one prompt with lm-eval's request and these settings; models are loaded
    and the engine is made."""
    from lm_eval.api.instance import Instance

    import fly

    root = Path(fly.__file__).parent.parent
    config = root / "fly_config" / "demo.json"
    lm: Any = fly.FLyLM(config_path=str(config), device="cpu", batch_size=1, **settings)
    arguments = (PROMPT, {"until": [], "do_sample": False, "max_gen_toks": MAX_NEW_TOKENS})
    request = Instance("generate_until", {}, arguments, 0, metadata=("one", 0, 1))
    return partial(lm.generate_until, [request], disable_tqdm=True)


def main() -> None:
    """Print what was seen, as JSON."""
    warnings.simplefilter("ignore")
    import fly

    package = Path(fly.__file__).parent
    prompt, core = Watch(package), Watch(package)
    for settings in ({"enable_fly": False}, {}):  # native, and fly
        run = answer(**settings)
        with core.looking():  # the engine is made here
            run()
        if not settings:
            with prompt.looking():
                run()
    print(
        json.dumps(
            {
                "prompt_files": prompt.files(),
                "prompt_functions": prompt.num_functions(),
                "depths": prompt.depths,
                "core_files": core.files(),
            }
        )
    )


if __name__ == "__main__":
    main()
