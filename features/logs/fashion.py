"""Words of the synthetic fashion shop: groups, sections, product types, colours and names, after the H&M columns."""

from typing import NamedTuple


class ProductType(NamedTuple):
    """A kind of article. `peak_day` is the day of the year on which it sells best; None: all year alike."""

    name: str
    product_group: str
    garment_group: str
    median_price: float
    peak_day: int | None


PRODUCT_TYPES = (
    ProductType("Trousers", "Garment Lower body", "Trousers", 24.99, None),
    ProductType("Jeans", "Garment Lower body", "Trousers Denim", 34.99, None),
    ProductType("Shorts", "Garment Lower body", "Shorts", 14.99, 190),
    ProductType("Skirt", "Garment Lower body", "Skirts", 19.99, 160),
    ProductType("Leggings/Tights", "Garment Lower body", "Jersey Basic", 12.99, 330),
    ProductType("Dress", "Garment Full body", "Dresses", 29.99, 165),
    ProductType("Jumpsuit", "Garment Full body", "Dresses", 34.99, 170),
    ProductType("T-shirt", "Garment Upper body", "Jersey Basic", 9.99, 180),
    ProductType("Vest top", "Garment Upper body", "Jersey Basic", 6.99, 185),
    ProductType("Top", "Garment Upper body", "Jersey Fancy", 14.99, None),
    ProductType("Blouse", "Garment Upper body", "Blouses", 19.99, None),
    ProductType("Shirt", "Garment Upper body", "Shirts", 24.99, None),
    ProductType("Sweater", "Garment Upper body", "Knitwear", 24.99, 335),
    ProductType("Cardigan", "Garment Upper body", "Knitwear", 29.99, 310),
    ProductType("Hoodie", "Garment Upper body", "Jersey Fancy", 24.99, 300),
    ProductType("Jacket", "Garment Upper body", "Outdoor", 49.99, 285),
    ProductType("Coat", "Garment Upper body", "Outdoor", 79.99, 320),
    ProductType("Blazer", "Garment Upper body", "Dressed", 39.99, None),
    ProductType("Bra", "Underwear", "Under-, Nightwear", 17.99, None),
    ProductType("Underwear bottom", "Underwear", "Under-, Nightwear", 9.99, None),
    ProductType("Pyjama set", "Nightwear", "Under-, Nightwear", 19.99, 345),
    ProductType("Bikini top", "Swimwear", "Swimwear", 14.99, 175),
    ProductType("Swimsuit", "Swimwear", "Swimwear", 24.99, 175),
    ProductType("Socks", "Socks & Tights", "Socks and Tights", 5.99, 350),
    ProductType("Sneakers", "Shoes", "Shoes", 29.99, None),
    ProductType("Boots", "Shoes", "Shoes", 49.99, 305),
    ProductType("Sandals", "Shoes", "Shoes", 24.99, 170),
    ProductType("Bag", "Accessories", "Accessories", 19.99, None),
    ProductType("Hat/beanie", "Accessories", "Accessories", 9.99, 340),
    ProductType("Earring", "Accessories", "Accessories", 6.99, None),
)

SECTIONS = {
    "Ladieswear": (
        "Womens Everyday Collection",
        "Womens Everyday Basics",
        "Womens Tailoring",
        "Womens Casual",
        "Womens Trend",
        "Womens Lingerie",
        "Mama",
        "H&M+",
    ),
    "Divided": ("Divided Collection", "Divided Basics", "Divided Projects", "Ladies Denim"),
    "Menswear": ("Contemporary Casual", "Mens Basics", "Men Suits & Tailoring", "Denim Men", "Men Underwear"),
    "Baby/Children": ("Baby Essentials & Complements", "Kids Girl", "Kids Boy", "Young Girl", "Young Boy"),
    "Sport": ("Ladies H&M Sport", "Men H&M Sport", "Kids Sports"),
}
"""index_group_name -> its section_names."""

GROUP_SHARE = {"Ladieswear": 0.42, "Divided": 0.2, "Menswear": 0.16, "Baby/Children": 0.16, "Sport": 0.06}
"""Share of the articles by index_group_name."""

GROUP_AGE = {"Ladieswear": 45.0, "Divided": 23.0, "Menswear": 33.0, "Baby/Children": 36.0, "Sport": 29.0}
"""Age in years around which customers buy most in a group."""

COLOURS = (
    *("Black", "White", "Dark Blue", "Grey", "Light Beige", "Blue", "Light Pink", "Off White", "Light Blue", "Red"),
    *("Beige", "Dark Grey", "Greenish Khaki", "Pink", "Dark Red", "Dark Green", "Yellow", "Light Orange"),
)
"""colour_group_names, most frequent first."""

NAMES = (
    *("Alma", "Astrid", "Bella", "Camden", "Charlie", "Dagny", "Despina", "Eivor", "Elsa", "Freja", "Gyda", "Hanna"),
    *("Inez", "Jade", "James", "Kajsa", "Klara", "Linus", "Lova", "Luna", "Maja", "Mika", "Nora", "Oden", "Olga"),
    *("Peter", "Pria", "Ragna", "Robin", "Rosie", "Runa", "Saga", "Simon", "Stella", "Tilda", "Tove", "Ulla", "Vera"),
    *("Wilma", "Ylva"),
)
LOOKS = (
    *("slim", "wide", "cropped", "ribbed", "oversized", "pleated", "printed", "striped", "washed", "soft", "fitted"),
    *("relaxed", "high-waist", "padded", "lace", "knotted", "tie", "basic", "fancy", "puff-sleeve"),
)
"""A product is named NAME LOOK product type, e.g. "Alma ribbed sweater"."""
