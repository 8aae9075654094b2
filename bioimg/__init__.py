"""bioimg: which transfer-learning recipe works best on these images?

import bioimg

results = bioimg.compare("images/", weights=["IMAGENET1K_V1", "IMAGENET1K_V2"])
results.table
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bioimg.api import ComparisonResults, compare, read_results
    from bioimg.errors import UserError

__all__ = ["ComparisonResults", "UserError", "compare", "read_results"]


def __getattr__(name: str) -> Any:
    """Import what a name stands for when it is first used, so that `import bioimg` is instant."""
    if name == "UserError":
        from bioimg.errors import UserError

        return UserError
    if name in __all__:
        from bioimg import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
