"""What the demo shop sells. The same seed gives the same catalogue, so that shop and ERP agree on it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from decimal import Decimal

_KINDS = {
    "BOLSA": "Bolsa de couro",
    "CANEC": "Caneca de cerâmica",
    "CAMIS": "Camiseta algodão",
    "TENIS": "Tênis de lona",
    "LIVRO": "Livro de receitas",
    "CAFE": "Café torrado em grãos 500 g",
    "VELA": "Vela aromática",
    "TOALH": "Jogo de toalhas",
    "CADER": "Caderno pautado",
    "PANEL": "Panela de pressão 4,5 L",
}
_COLOURS = ["preta", "azul-marinho", "vermelha", "verde", "açaí", "natural", "grafite", "pêssego"]


@dataclass(frozen=True, slots=True)
class Product:
    sku: str
    """At most 15 characters; some differ from another only by case."""
    name: str
    price: Decimal
    stock: int


def catalogue(size: int, seed: int = 1) -> list[Product]:
    """`size` products (at least 3), each SKU once. `BOLSA-01` and `bolsa-01` are among them, and one at 33.33."""
    if size < 3:
        raise ValueError(f"a catalogue of {size} products is too small: ask for at least 3")
    random_ = random.Random(seed)
    products = [
        Product("BOLSA-01", "Bolsa de couro preta", Decimal("189.90"), 5_000),
        Product("bolsa-01", "Bolsa infantil preta", Decimal("74.50"), 5_000),
        Product("TERCO-33", "Terço de madeira", Decimal("33.33"), 5_000),
    ]
    for place in range(len(products), size):
        code, kind = random_.choice(list(_KINDS.items()))
        price = Decimal(random_.randint(499, 59_999)) / 100
        name = f"{kind} {random_.choice(_COLOURS)}"
        products.append(Product(f"{code}-{place:05d}", name, price, random_.randint(2_000, 20_000)))
    return products
