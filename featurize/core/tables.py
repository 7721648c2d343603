"""Results that a notebook shows as tables."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


class ShownAsTable:
    """Gives a class with `to_frame` its look in a notebook."""

    def to_frame(self) -> "pd.DataFrame":
        """The result as a data frame."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        return html_table(self.to_frame())


def html_table(frame: "pd.DataFrame") -> str:
    """A data frame as an HTML table: cells are whole and escaped, numbers have three decimals."""
    import pandas as pd

    with pd.option_context("display.max_colwidth", None):
        return str(frame.to_html(float_format="{:.3f}".format, na_rep="", notebook=True))
