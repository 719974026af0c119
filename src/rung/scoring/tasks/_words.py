"""Short common words and names that the generated tasks are made of; chosen so that none is part of an instruction."""

from __future__ import annotations

__all__ = ["NAMES", "WORDS"]

WORDS: tuple[str, ...] = tuple(
    (
        "apple arrow baker banana basket beach bell bird blanket boat bottle branch bread bridge brush bucket butter "
        "button cabin candle carpet castle cherry circle clock cloud coffee copper cotton crown desert dinner dragon "
        "eagle engine farmer feather field finger flower forest fountain garden ginger glass grape hammer harbor honey "
        "island jacket jungle kettle kitchen ladder lantern lemon library marble market meadow melon mirror monkey "
        "morning mountain needle ocean olive orange oven paper pencil pepper pillow planet pocket potato rabbit rain "
        "ribbon river rocket saddle salmon shadow silver spider spoon square stone storm sugar summer table thunder "
        "tiger tomato tower trumpet tunnel turtle valley velvet village violin wagon walnut water whistle window winter"
    ).split()
)
NAMES: tuple[str, ...] = tuple(
    "Ada Ben Carla David Elif Farid Grace Hugo Ines Jonas Kofi Lena Mira Nils Olga Pablo Rosa Sami Tara Yuki".split()
)
