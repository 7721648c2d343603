"""Stage 3: run directories become tables, figures and a report."""

from typing import TYPE_CHECKING, Any

from featurize.core.environment import package_attribute

if TYPE_CHECKING:
    from analysis.frame import comparison
    from analysis.report import write_comparison

__all__ = ["comparison", "write_comparison"]


def __getattr__(name: str) -> Any:
    # On demand, because both load pandas, and `--help` must answer at once.
    if name == "comparison":
        from analysis.frame import comparison

        return comparison
    if name == "write_comparison":
        from analysis.report import write_comparison

        return write_comparison
    return package_attribute(__name__, name)
