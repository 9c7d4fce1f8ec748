"""The catalogue of a made fashion shop with the 25 columns of the H&M articles."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from features.logs.fashion import COLOURS, LOOKS, PRODUCT_TYPES, SECTIONS

PATTERNS = (
    "Solid",
    "Stripe",
    "All over pattern",
    "Melange",
    "Denim",
    "Front print",
    "Check",
    "Dot",
    "Lace",
    "Metallic",
)
"""graphical_appearance_names, most frequent first."""
SHADES = ("Dusty Light", "Medium Dusty", "Light", "Dark", "Bright")
"""perceived_colour_value_names by number from 1."""
MASTERS = ("Black", "White", "Blue", "Grey", "Beige", "Pink", "Red", "Khaki green", "Green", "Yellow", "Orange")
"""perceived_colour_master_names by number from 1."""
INDEXES = {
    "Ladieswear": ("A", 1),
    "Divided": ("D", 2),
    "Menswear": ("F", 3),
    "Baby/Children": ("H", 4),
    "Sport": ("S", 26),
}
"""index_group_name -> index_code of most of its articles, index_group_no."""
INDEX_NAMES = {
    "B": "Lingeries/Tights",
    "C": "Ladies Accessories",
    "H": "Children Sizes 92-140",
    "G": "Baby Sizes 50-98",
}
"""index_code -> index_name, where it is not the group's."""
FABRICS = (
    "a cotton weave",
    "soft jersey",
    "a fine knit",
    "washed denim",
    "airy viscose",
    "sturdy twill",
    "smooth satin",
)
DETAILS = ("a small logo", "side pockets", "a concealed zip", "buttons down the front", "long sleeves", "a wide hem")
NO_DESCRIPTION_SHARE = 0.004

ARTICLE_SCHEMA = pa.schema(
    [
        *(("article_id", pa.string()), ("product_code", pa.int64()), ("prod_name", pa.string())),
        *(("product_type_no", pa.int64()), ("product_type_name", pa.string()), ("product_group_name", pa.string())),
        *(("graphical_appearance_no", pa.int64()), ("graphical_appearance_name", pa.string())),
        *(("colour_group_code", pa.int64()), ("colour_group_name", pa.string())),
        *(("perceived_colour_value_id", pa.int64()), ("perceived_colour_value_name", pa.string())),
        *(("perceived_colour_master_id", pa.int64()), ("perceived_colour_master_name", pa.string())),
        *(("department_no", pa.int64()), ("department_name", pa.string())),
        *(("index_code", pa.string()), ("index_name", pa.string())),
        *(("index_group_no", pa.int64()), ("index_group_name", pa.string())),
        *(("section_no", pa.int64()), ("section_name", pa.string())),
        *(("garment_group_no", pa.int64()), ("garment_group_name", pa.string()), ("detail_desc", pa.string())),
    ]
)


def article_table(items: pa.Table, rng: np.random.Generator) -> pa.Table:
    """The articles with columns as in `ARTICLE_SCHEMA`.

    Args:
        items: a made world's items; articles of one product stand together.
        rng: chance of what the world does not say.
    """
    num_items = items.num_rows
    column = {name: items[name].to_pylist() for name in items.column_names}
    code = np.array([int(article[1:7]) for article in column["item_id"]])
    product_I = np.unique(code, return_inverse=True)[1]
    pattern = rng.choice(len(PATTERNS), num_items, p=_falling(len(PATTERNS)))
    shade, master = zip(*(_perceived(colour) for colour in column["colour_group_name"]), strict=True)
    group = column["index_group_name"]
    index_code = list(map(_index_code, group, column["section_name"], column["product_group_name"]))
    sections = [section for of_group in SECTIONS.values() for section in of_group]
    types = [kind.name for kind in PRODUCT_TYPES]
    garments = list(dict.fromkeys(kind.garment_group for kind in PRODUCT_TYPES))
    departments = sorted(set(column["department_name"]))
    return pa.table(
        {
            "article_id": column["item_id"],
            "product_code": code,
            "prod_name": column["title"],
            "product_type_no": _number(column["product_type_name"], types, 250),
            "product_type_name": column["product_type_name"],
            "product_group_name": column["product_group_name"],
            "graphical_appearance_no": pattern + 1_010_001,
            "graphical_appearance_name": [PATTERNS[index] for index in pattern],
            "colour_group_code": _number(column["colour_group_name"], list(COLOURS), 1),
            "colour_group_name": column["colour_group_name"],
            "perceived_colour_value_id": _number(shade, list(SHADES), 1),
            "perceived_colour_value_name": shade,
            "perceived_colour_master_id": _number(master, list(MASTERS), 1),
            "perceived_colour_master_name": master,
            "department_no": _number(column["department_name"], departments, 1201),
            "department_name": column["department_name"],
            "index_code": index_code,
            "index_name": [INDEX_NAMES.get(letter, name) for letter, name in zip(index_code, group, strict=True)],
            "index_group_no": [INDEXES[name][1] for name in group],
            "index_group_name": group,
            "section_no": _number(column["section_name"], sections, 2),
            "section_name": column["section_name"],
            "garment_group_no": _number(column["garment_group_name"], garments, 1001),
            "garment_group_name": column["garment_group_name"],
            "detail_desc": _descriptions(column["product_type_name"], product_I, rng),
        },
        schema=ARTICLE_SCHEMA,
    )


def _number(values, names: list[str], first: int) -> np.ndarray:
    place = {name: first + index for index, name in enumerate(names)}
    return np.array([place[value] for value in values], np.int64)


def _perceived(colour: str) -> tuple[str, str]:
    """What one sees of a colour: how light it is, and which basic colour."""
    first, last = colour.split()[0], colour.split()[-1]
    shade = {"Dark": "Dark", "Black": "Dark", "Light": "Dusty Light", "White": "Light", "Off": "Light"}
    master = "Khaki green" if last == "Khaki" else last
    return shade.get(first, "Bright" if master in ("Red", "Yellow", "Orange") else "Medium Dusty"), master


def _index_code(group: str, section: str, product_group: str) -> str:
    if group == "Ladieswear":
        return "B" if section == "Womens Lingerie" else "C" if product_group == "Accessories" else "A"
    return "G" if section.startswith("Baby") else INDEXES[group][0]


def _descriptions(types: list[str], product_I: np.ndarray, rng: np.random.Generator) -> list[str | None]:
    """One sentence a product, the same for all its colours; unknown for a few."""
    num_products = int(product_I[-1]) + 1
    fabric, look, detail = (rng.integers(0, len(words), num_products) for words in (FABRICS, LOOKS, DETAILS))
    unknown = rng.random(num_products) < NO_DESCRIPTION_SHARE
    return [
        None if unknown[p] else f"{kind} in {FABRICS[fabric[p]]}, {LOOKS[look[p]]}, with {DETAILS[detail[p]]}."
        for kind, p in zip(types, product_I.tolist(), strict=True)
    ]


def _falling(num: int) -> np.ndarray:
    weights = 1.0 / np.arange(1, num + 1)
    return weights / weights.sum()
