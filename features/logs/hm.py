"""Adapter `hm`: the files of the H&M Personalized Fashion Recommendations competition, as published on Kaggle."""

from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from features.logs.contract import LogError
from features.logs.table_config import (
    InteractionTableConfig,
    ItemTableConfig,
    TablesConfig,
    UserTableConfig,
    expanded_path,
)

EXTENSIONS = (".csv", ".csv.gz", ".csv.zst", ".parquet")
TRANSACTIONS, CUSTOMERS, ARTICLES = "transactions_train", "customers", "articles"
ITEM_CATEGORIES = (
    "product_code",
    "product_type_name",
    "product_group_name",
    "graphical_appearance_name",
    "colour_group_name",
    "perceived_colour_value_name",
    "perceived_colour_master_name",
    "department_name",
    "index_name",
    "index_group_name",
    "section_name",
    "garment_group_name",
)
USER_CATEGORIES = {
    "club_member_status": "club_member_status",
    "fashion_news_frequency": "fashion_news_frequency",
    "fashion_news": "FN",
    "active": "Active",
}


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class HmConfig:
    """The H&M files."""

    path: Annotated[str, Field(min_length=1)] = "${CASCADE_DATA}/hm"
    """Folder with transactions_train, customers and articles, each as .csv, .csv.gz, .csv.zst or .parquet. ${NAME}
    stands for an environment variable, ~ for the home folder."""

    def tables(self) -> TablesConfig:
        """The files as tables.

        Raises: LogError if one of them is missing.
        """
        folder = expanded_path(self.path, "data.hm.path")
        return TablesConfig(
            interactions=InteractionTableConfig(
                path=_file(folder, TRANSACTIONS),
                user_id="customer_id",
                item_id="article_id",
                timestamp="t_dat",
                timestamp_format="%Y-%m-%d",
                price="price",
                categorical={"sales_channel": "sales_channel_id"},
            ),
            users=UserTableConfig(
                path=_file(folder, CUSTOMERS),
                user_id="customer_id",
                categorical=dict(USER_CATEGORIES),
                continuous={"age": "age"},
            ),
            items=ItemTableConfig(
                path=_file(folder, ARTICLES),
                item_id="article_id",
                title="prod_name",
                categorical={name: name for name in ITEM_CATEGORIES},
                text=("prod_name", "detail_desc"),
            ),
        )


def _file(folder: Path, stem: str) -> str:
    found = [path for extension in EXTENSIONS if (path := folder / f"{stem}{extension}").is_file()]
    if len(found) == 1:
        return str(found[0])
    forms = ", ".join(f"{stem}{extension}" for extension in EXTENSIONS)
    came = " and ".join(path.name for path in found) or "none of them"
    raise LogError(f"{folder}: needs exactly one of {forms} (data.hm.path), there is {came}; correct the path")
