"""Who buys in the demo shop: invented people and companies with valid tax ids, and where they live."""

from __future__ import annotations

import random
import string
from dataclasses import dataclass

_FIRST = ["Ana", "João", "Conceição", "Luís", "Mônica", "Caetano", "Thaís", "Otávio", "Inês", "Raimundo", "Zélia"]
_LAST = ["Araújo", "Gonçalves", "da Silva", "Nascimento", "Muñoz", "d'Ávila", "Peçanha", "Brandão", "Simões", "Reis"]
_TRADES = ["Padaria", "Papelaria", "Mercearia", "Livraria", "Oficina", "Floricultura"]
_STREETS = ["Rua das Acácias", "Avenida São João", "Travessa do Açúcar", "Rua XV de Novembro", "Alameda dos Ipês"]
_DISTRICTS = ["Centro", "Água Verde", "Santa Efigênia", "Jardim América", "Boa Vista"]
_CITIES = [
    ("São Paulo", "3550308", "SP", "01"),
    ("Belo Horizonte", "3106200", "MG", "30"),
    ("Curitiba", "4106902", "PR", "80"),
    ("Salvador", "2927408", "BA", "40"),
    ("Brasília", "5300108", "DF", "70"),
    ("Manaus", "1302603", "AM", "69"),
]


@dataclass(frozen=True, slots=True)
class Home:
    """The columns of an address."""

    street: str
    number: str
    complement: str | None
    district: str
    city: str
    city_ibge: str
    state: str
    zip_code: str


@dataclass(frozen=True, slots=True)
class Person:
    """Someone who buys: the columns of a customer, and an address."""

    name: str
    email: str
    phone: str
    cpf_cnpj: str | None
    """As typed at checkout: with or without its mask."""
    home: Home


def cpf(random_: random.Random) -> str:
    """A valid CPF, 11 digits."""
    digits = [random_.randint(0, 9) for _ in range(9)]
    if len(set(digits)) == 1:
        digits[0] = (digits[0] + 1) % 10
    for length in (9, 10):
        rest = sum(digit * (length + 1 - place) for place, digit in enumerate(digits)) % 11
        digits.append(0 if rest < 2 else 11 - rest)
    return "".join(map(str, digits))


def cnpj(random_: random.Random, *, letters: bool = False) -> str:
    """A valid CNPJ, 14 characters; with `letters` one of the alphanumeric kind."""
    body = "".join(random_.choices(string.digits, k=8)) + "0001"
    if letters:
        body = "".join(random_.choices(string.ascii_uppercase, k=2) + random_.choices(string.digits, k=10))
    for _ in range(2):
        weights = [2 + place % 8 for place in reversed(range(len(body)))]
        rest = sum(weight * (ord(character) - 48) for weight, character in zip(weights, body, strict=True)) % 11
        body += "0" if rest < 2 else str(11 - rest)
    return body


def masked(tax_id: str) -> str:
    """123.456.789-09 or 12.345.678/0001-95."""
    if len(tax_id) == 11:
        return f"{tax_id[:3]}.{tax_id[3:6]}.{tax_id[6:9]}-{tax_id[9:]}"
    return f"{tax_id[:2]}.{tax_id[2:5]}.{tax_id[5:8]}/{tax_id[8:12]}-{tax_id[12:]}"


def home(random_: random.Random) -> Home:
    city, ibge, state, zip_prefix = random_.choice(_CITIES)
    return Home(
        street=random_.choice(_STREETS),
        number=random_.choice([str(random_.randint(1, 2999)), "s/n"]),
        complement=random_.choice([None, "apto 42", "bloco B", "fundos"]),
        district=random_.choice(_DISTRICTS),
        city=city,
        city_ibge=ibge,
        state=state,
        zip_code=f"{zip_prefix}{random_.randint(0, 999):03d}-{random_.randint(0, 999):03d}",
    )


def person(random_: random.Random) -> Person:
    """Mostly people, one in eight a company."""
    last = random_.choice(_LAST)
    if random_.random() < 0.125:
        name, tax_id = f"{random_.choice(_TRADES)} {last} Ltda", cnpj(random_)
    else:
        name, tax_id = f"{random_.choice(_FIRST)} {last}", cpf(random_)
    return Person(
        name=name,
        email=f"cliente{random_.randint(0, 10**9)}@example.com",
        phone=f"(11) 9{random_.randint(1000, 9999)}-{random_.randint(0, 9999):04d}",
        cpf_cnpj=random_.choice([tax_id, masked(tax_id)]),
        home=home(random_),
    )
